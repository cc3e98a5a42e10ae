"""Archives are unpacked whole or not at all, and nothing lands outside its folder."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from caffe_bridge.errors import CaffeError
from caffe_bridge.unpacking import SPARE, unpack

FILES = {"top/img/a.jpg": b"a" * 1000, "top/img/deep/b.jpg": b"b", "top/inst/a.mat": b"m", "top/readme.txt": b"r"}


def make(path, files, links=()):
    """A zip or a tar of these files, by the path's ending."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_folders_go_to_their_places(tmp_path, name):
    archive = make(tmp_path / name, FILES)
    data = tmp_path / "data"
    unpack(archive, {"top/img": data / "images", "*/inst": data / "sds" / "inst"})
    assert contents(data) == {"images/a.jpg": b"a" * 1000, "images/deep/b.jpg": b"b", "sds/inst/a.mat": b"m"}


def test_what_is_there_stays_or_is_replaced(tmp_path):
    place = tmp_path / "data" / "images"
    (place / "deep").mkdir(parents=True)
    (place / "a.jpg").write_bytes(b"old")
    (place / "deep" / "c.jpg").write_bytes(b"kept")
    unpack(make(tmp_path / "x.tar", FILES), {"top/img": place})
    assert contents(place) == {"a.jpg": b"a" * 1000, "deep/b.jpg": b"b", "deep/c.jpg": b"kept"}


def test_a_place_may_be_a_link_to_another_disk(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "images").symlink_to(elsewhere)
    unpack(make(tmp_path / "x.tar", FILES), {"top/img": tmp_path / "images"})
    assert contents(elsewhere) == {"a.jpg": b"a" * 1000, "deep/b.jpg": b"b"}


@pytest.mark.parametrize("ending", ["tar", "zip"])
@pytest.mark.parametrize("bad", ["../evil", "top/img/../../../evil", "/evil", "top/img/..\\..\\..\\evil", "C:\\evil"])
def test_paths_that_lead_out(tmp_path, ending, bad):
    archive = make(tmp_path / f"x.{ending}", {**FILES, bad: b"evil"})
    with pytest.raises(CaffeError, match="leads out of the archive's folder; nothing was unpacked"):
        unpack(archive, {"top/img": tmp_path / "data" / "images"})
    assert not list((tmp_path / "data").iterdir()) and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    archive = make(tmp_path / "x.tar", FILES, [("top/img/link", kind, "../../../evil")])
    with pytest.raises(CaffeError, match="'top/img/link' is a link or a device"):
        unpack(archive, {"top/img": tmp_path / "data" / "images"})
    assert contents(tmp_path / "data") == {}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip"])
def test_damaged_archives_leave_nothing(tmp_path, name):
    whole = make(tmp_path / name, FILES).read_bytes()
    # A tar that was cut between two members cannot be told from a whole one.
    for cut in (0, 10, 700) if name == "x.tar" else (0, 10, len(whole) // 2, len(whole) - 20):
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(CaffeError, match="damaged|cannot be unpacked"):
            unpack(tmp_path / name, {"top/img": tmp_path / "data" / "img", "top/inst": tmp_path / "data" / "inst"})
        assert not list((tmp_path / "data").iterdir())


def test_an_archive_of_something_else(tmp_path):
    with pytest.raises(CaffeError, match="holds no VOCdevkit, so it is another archive"):
        unpack(make(tmp_path / "x.tar", FILES), {"VOCdevkit": tmp_path / "VOCdevkit2007"})
    assert not (tmp_path / "VOCdevkit2007").exists()


def test_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=SPARE + 999))
    with pytest.raises(CaffeError, match="no room for top/img/a.jpg with its 1,000 bytes"):
        unpack(make(tmp_path / "x.tar", FILES), {"top/img": tmp_path / "images"})
    assert not (tmp_path / "images").exists()


def test_leftovers_of_an_interrupted_attempt_go(tmp_path):
    archive = make(tmp_path / "x.tar", FILES)
    left = tmp_path / "data" / ".unpacking-images-x.tar"
    left.mkdir(parents=True)
    (left / "half.jpg").write_bytes(b"h")
    unpack(archive, {"top/img": tmp_path / "data" / "images"})
    assert contents(tmp_path / "data") == {"images/a.jpg": b"a" * 1000, "images/deep/b.jpg": b"b"}
