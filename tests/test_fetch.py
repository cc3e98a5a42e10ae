"""Public archives by name: what is there afterwards, what is fetched again, and what to do when a host is gone."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace

import pytest
from file_server import Page, serving

from caffe_bridge import archives, downloads
from caffe_bridge.archives import ARCHIVES, GROUPS, Archive
from caffe_bridge.cli import run
from caffe_bridge.datasets import get_imdb, shapes
from caffe_bridge.tools import fetch

WEIGHTS = b"weights" * 100


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "WAIT", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with serving() as running:
        made = {
            "set-images": Archive("images", (f"{running.address}/s.tgz",), "s.tgz", {"top/img": "set/img"}),
            "net": Archive("a net", (f"{running.address}/net",), "net.caffemodel", folder="models", size=len(WEIGHTS)),
            "gone": Archive("gone", (f"{running.address}/gone", "http://127.0.0.1:1/g"), "gone.tgz", {"*": "gone"},
                            size=1234, digest="md5:" + "0" * 32, hint="a friend has it"),
        }  # fmt: skip
        made["net"] = replace(made["net"], digest=f"sha1:{hashlib.sha1(WEIGHTS).hexdigest()}")
        monkeypatch.setattr(archives, "ARCHIVES", made)
        for module in (fetch, fetch.fetch.__globals__):
            target = module if isinstance(module, dict) else vars(module)
            monkeypatch.setitem(target, "ARCHIVES", made)
            monkeypatch.setitem(target, "GROUPS", {"all": tuple(made)})
        running.pages = {"/s.tgz": Page(tar({"top/img/a.jpg": b"a"})), "/net": Page(WEIGHTS)}
        yield running


@pytest.fixture
def call(tmp_path):
    return lambda *arguments: run(fetch.main, [*arguments, "--data", str(tmp_path / "data")])


def test_an_archive_is_unpacked_recorded_and_removed(server, call, tmp_path, capsys):
    assert call("set-images") == 0
    data = tmp_path / "data"
    assert (data / "set" / "img" / "a.jpg").read_bytes() == b"a"
    assert not list((data / "downloads").iterdir())
    digest = hashlib.sha256(server.pages["/s.tgz"].content).hexdigest()
    assert json.loads((data / ".fetched" / "set-images.json").read_text())["digest"] == f"sha256:{digest}"
    assert str(data / "set" / "img") in capsys.readouterr().out
    assert call("set-images") == 0
    assert "is there" in capsys.readouterr().out
    assert len(server.pages["/s.tgz"].requests) == 1


def test_again_and_keep(server, call, tmp_path, caplog):
    assert call("set-images", "--keep") == 0
    assert (tmp_path / "data" / "downloads" / "s.tgz").exists()
    (tmp_path / "data" / "downloads" / "s.tgz").unlink()
    server.pages["/s.tgz"] = Page(tar({"top/img/a.jpg": b"new"}))
    assert call("set-images", "--again") == 0
    assert (tmp_path / "data" / "set" / "img" / "a.jpg").read_bytes() == b"new"
    assert "not the file that was fetched before" in caplog.text


def test_what_was_removed_is_fetched_again(server, call, tmp_path):
    assert call("net") == 0
    target = tmp_path / "data" / "models" / "net.caffemodel"
    assert target.read_bytes() == WEIGHTS
    target.unlink()
    assert call("net") == 0
    assert target.read_bytes() == WEIGHTS


def test_a_file_that_is_in_its_place_is_only_checked(server, call, tmp_path):
    target = tmp_path / "data" / "models" / "net.caffemodel"
    target.parent.mkdir(parents=True)
    target.write_bytes(WEIGHTS)
    assert call("net") == 0
    assert server.pages["/net"].requests == [] and (tmp_path / "data" / ".fetched" / "net.json").exists()


def test_a_gone_host_is_answered_by_what_to_look_for(server, call, tmp_path, capsys):
    assert call("gone") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    for part in (
        "404 Not Found",
        "Connection refused",
        "gone.tgz",
        "1,234 bytes",
        "md5 000",
        "a friend has it",
        "--from",
    ):
        assert part in error
    assert str(tmp_path / "data" / "downloads" / "gone.tgz") in error


def test_a_file_from_elsewhere_is_checked_and_used(server, call, tmp_path, capsys):
    downloaded = tmp_path / "data" / "downloads"
    downloaded.mkdir(parents=True)
    (downloaded / "net.caffemodel").write_bytes(b"x" * len(WEIGHTS))
    assert call("net") == 2
    assert "has the sha1" in capsys.readouterr().err
    (downloaded / "net.caffemodel").write_bytes(WEIGHTS)
    assert call("net") == 0
    assert server.pages["/net"].requests == []


def test_another_address(server, call, tmp_path, capsys):
    server.pages["/copy"] = Page(WEIGHTS, cuts=[100])
    assert call("net", "--from", f"{server.address}/copy") == 0
    assert server.pages["/net"].requests == [] and len(server.pages["/copy"].requests) == 2
    assert call("all", "--from", f"{server.address}/copy") == 2
    assert "one address is one archive" in capsys.readouterr().err


def test_a_second_host_is_asked(server, call, monkeypatch, tmp_path):
    net = replace(fetch.ARCHIVES["net"], urls=(f"{server.address}/nowhere", *fetch.ARCHIVES["net"].urls))
    monkeypatch.setitem(fetch.ARCHIVES, "net", net)
    assert call("net") == 0


def test_one_that_fails_does_not_keep_the_others(server, call, tmp_path, capsys):
    assert call("gone", "set-images", "net") == 1
    assert (tmp_path / "data" / "models" / "net.caffemodel").exists()
    assert capsys.readouterr().err.strip().endswith("not fetched: gone")


def test_list_and_mistakes(server, call, capsys):
    assert call("net") == 0
    assert call("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("net ") and " here " in line for line in lines)
    assert any(line.startswith("gone ") and " here " not in line for line in lines)
    assert call("nte") == 2
    assert "nothing is called 'nte'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call()


def test_an_unwritable_folder(server, call, tmp_path, capsys):
    (tmp_path / "data").write_text("a file")
    assert call("net") == 2
    assert "data" in capsys.readouterr().err


# -- the catalogue -------------------------------------------------------------------------------------------


def test_the_catalogue_is_sound():
    lengths = {"md5": 32, "sha1": 40, "sha256": 64}
    for name, archive in ARCHIVES.items():
        assert archive.urls and all(url.startswith(("http://", "https://")) for url in archive.urls), name
        assert bool(archive.places) != bool(archive.folder), name
        algorithm, _, value = archive.digest.partition(":")
        assert not archive.digest or len(value) == lengths[algorithm] and int(value, 16), name
        assert len(set(archive.urls)) == len(archive.urls), name
    assert all(set(members) <= set(ARCHIVES) for members in GROUPS.values())
    assert not set(GROUPS) & set(ARCHIVES)
    files = [archive.file for archive in ARCHIVES.values()]
    assert len(set(files)) == len(files)


def test_sbd_lies_where_its_data_set_looks(server, monkeypatch, tmp_path):
    """Shapes in the archive's folders, with MNC's lists."""
    shapes.make(str(tmp_path / "made"), 2, 1, (40, 48))
    root = tmp_path / "made"
    files = {
        f"benchmark_RELEASE/dataset/{path.relative_to(root)}": path.read_bytes()
        for kind in ("img", "inst", "cls")
        for path in (root / kind).iterdir()
    }
    content = {"/b": tar(files), "/train.txt": (root / "train.txt").read_bytes(), "/val.txt": b""}
    for name, path in (("sbd-images", "/b"), ("sbd-train-list", "/train.txt")):
        server.pages[path] = Page(content[path])
        archive = replace(ARCHIVES[name], urls=(server.address + path,), size=0, digest="")
        monkeypatch.setitem(fetch.ARCHIVES, name, archive)
    assert run(fetch.main, ["sbd-images", "sbd-train-list", "--data", str(tmp_path / "data")]) == 0
    (tmp_path / "data" / "VOCdevkitSDS" / "classes.txt").write_bytes((root / "classes.txt").read_bytes())
    imdb = get_imdb("voc_2012_seg_train", tmp_path / "data" / "VOCdevkitSDS")
    assert imdb.num_images == 2
