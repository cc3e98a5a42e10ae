"""Files over HTTP: broken connections, other versions, wrong contents, missing hosts."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
from file_server import Page, serving

from caffe_bridge import downloads
from caffe_bridge.downloads import Expected, download
from caffe_bridge.errors import CaffeError

CONTENT = bytes(range(256)) * 40
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
WHOLE = Expected(len(CONTENT), MD5)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(downloads, "WAIT", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 512)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def get(server, tmp_path):
    """Fetches a page; gives the target's path."""

    def fetch(page, expected=WHOLE):
        server.pages["/file.tgz"] = page
        download(f"{server.address}/file.tgz", tmp_path / "file.tgz", expected)
        return tmp_path / "file.tgz"

    return fetch


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file(get, tmp_path):
    assert get(Page(CONTENT)).read_bytes() == CONTENT
    assert names(tmp_path) == ["file.tgz"]


@pytest.mark.parametrize("sized", [True, False])
def test_broken_connections_are_made_again_where_they_broke(get, sized):
    page = Page(CONTENT, cuts=[1000, 0, 2000, 5000], sized=sized)
    assert get(page).read_bytes() == CONTENT
    assert page.requests == ["", "bytes=1000-", "bytes=1000-", "bytes=3000-", "bytes=8000-"]


def test_many_breaks_are_no_end_while_bytes_come(get):
    page = Page(CONTENT, cuts=[512] * 15)
    assert get(page).read_bytes() == CONTENT
    assert len(page.requests) > 3 * downloads.TRIES


def test_a_connection_that_brings_nothing_is_given_up_and_gone_on_with_later(get, tmp_path):
    page = Page(CONTENT, cuts=[3000] + [0] * downloads.TRIES)
    with pytest.raises(CaffeError, match=r"broke after 3,000 of 10,240 bytes; 3,000 bytes are kept"):
        get(page)
    assert names(tmp_path) == ["file.tgz.part", "file.tgz.part.json"]
    again = Page(CONTENT)
    assert get(again).read_bytes() == CONTENT
    assert again.requests == ["bytes=3000-"] and names(tmp_path) == ["file.tgz"]


def test_another_version_is_fetched_from_the_start(get):
    page = Page(CONTENT, cuts=[3000] + [0] * downloads.TRIES)
    other = bytes(reversed(CONTENT))
    with pytest.raises(CaffeError):
        get(page)
    page = Page(other, etag='"two"')
    assert get(page, Expected()).read_bytes() == other
    assert page.requests == ["bytes=3000-"]


def test_pieces_of_unnamed_versions_that_do_not_fit_are_fetched_again(get):
    with pytest.raises(CaffeError):
        get(Page(bytes(10240), cuts=[3000] + [0] * downloads.TRIES, etag=""))
    page = Page(CONTENT, etag="")
    assert get(page).read_bytes() == CONTENT
    assert page.requests == ["bytes=3000-", ""]


def test_a_server_that_sends_no_parts_starts_again(get):
    page = Page(CONTENT, cuts=[3000], ranges=False)
    assert get(page).read_bytes() == CONTENT
    assert page.requests == ["", "bytes=3000-"]
    with pytest.raises(CaffeError, match="broke after"):
        get(Page(CONTENT, cuts=[3000] * 9, ranges=False))


@pytest.mark.parametrize(
    ("piece", "expected", "requests"),
    [
        (CONTENT[:50], WHOLE, ["bytes=50-"]),
        (b"x" * 50, WHOLE, ["bytes=50-", ""]),
        (CONTENT[:50], Expected(len(CONTENT)), [""]),
    ],
)
def test_a_piece_of_another_host_is_gone_on_with_if_the_digest_is_known(get, tmp_path, piece, expected, requests):
    (tmp_path / "file.tgz.part").write_bytes(piece)
    (tmp_path / "file.tgz.part.json").write_text(json.dumps({"url": "http://elsewhere/f.tgz", "validator": '"x"'}))
    page = Page(CONTENT)
    assert get(page, expected).read_bytes() == CONTENT and page.requests == requests


@pytest.mark.parametrize("note", ["", "[]", "{", '{"url": 1}'])
def test_a_damaged_note_means_the_start(get, tmp_path, note):
    (tmp_path / "file.tgz.part").write_bytes(b"something else")
    (tmp_path / "file.tgz.part.json").write_text(note)
    assert get(Page(CONTENT)).read_bytes() == CONTENT


def test_a_piece_that_was_whole_is_not_fetched_again(get, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT)
    note = {"url": f"{server.address}/file.tgz", "validator": '"one"'}
    (tmp_path / "file.tgz.part.json").write_text(json.dumps(note))
    page = Page(CONTENT)
    assert get(page).read_bytes() == CONTENT and page.requests == ["bytes=10240-"]


def test_a_piece_longer_than_the_file_is_thrown_away(get, server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT + b"x")
    note = {"url": f"{server.address}/file.tgz", "validator": '"one"'}
    (tmp_path / "file.tgz.part.json").write_text(json.dumps(note))
    assert get(Page(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "expected", "message"),
    [
        (Page(CONTENT[:-1] + b"x"), Expected(0, MD5), r"what arrived has the md5 \w+, not \w+; it was thrown away"),
        (Page(CONTENT + b"x"), Expected(len(CONTENT)), "has 10,241 bytes, not 10,240: it is another file now"),
        (Page(CONTENT + b"x", sized=False), Expected(len(CONTENT)), "more came than the 10,240 bytes"),
        (Page(b"<html>gone</html>", kind="text/html; charset=utf-8"), Expected(), "a web page came in place"),
        (Page(b""), Expected(), "what arrived is empty"),
        (Page(CONTENT, statuses=[403]), Expected(), "403 Forbidden"),
        (Page(CONTENT, statuses=[503] * 9), Expected(), "503 Service Unavailable"),
    ],
)
def test_what_is_refused(get, tmp_path, page, expected, message):
    with pytest.raises(CaffeError, match=message):
        get(page, expected)
    assert "file.tgz" not in names(tmp_path)


def test_a_busy_server_is_asked_again(get):
    assert get(Page(CONTENT, statuses=[503, 429])).read_bytes() == CONTENT


def test_what_is_not_there(server, tmp_path):
    with pytest.raises(CaffeError, match=r"/other.tgz: 404 Not Found"):
        download(f"{server.address}/other.tgz", tmp_path / "other.tgz")
    with pytest.raises(CaffeError, match="Connection refused"):
        download("http://127.0.0.1:1/other.tgz", tmp_path / "other.tgz")
    with pytest.raises(CaffeError, match=r"no-such-host.invalid/x: "):
        download("http://no-such-host.invalid/x", tmp_path / "x")
    with pytest.raises(CaffeError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("sized", "free", "message"),
    [
        (True, [downloads.SPARE + 1000], "bytes are free, 10,240 are to come"),
        (False, [downloads.SPARE + 1000] * 3 + [0] * 99, "the disk is full, and the server does not say"),
    ],
)
def test_a_disk_that_is_too_small(get, monkeypatch, sized, free, message):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free.pop(0)))
    with pytest.raises(CaffeError, match=message):
        get(Page(CONTENT, sized=sized), Expected())
