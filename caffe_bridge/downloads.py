"""Fetching one file over HTTP: continued where it broke off, checked, and put in its place in one step.

What has arrived of FILE is FILE.part; FILE.part.json says where from and what the server called that version, so that
pieces of two versions are not joined. Of a file whose digest is known, one host's piece is gone on with at another.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from caffe_bridge.errors import CaffeError

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
TRIES = 4  # in a row without a new byte
WAIT = 1.0  # seconds before the second try; doubled for each further one
SPARE = 64 << 20  # bytes that stay free on the disk

_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Expected:
    """What a file has to be; unknown parts are empty.

    Attributes:
        size: in bytes.
        digest: ALGORITHM:HEX, as md5:82b4d87c...; any algorithm of hashlib.
    """

    size: int = 0
    digest: str = ""

    def problem(self, path: Path) -> str | None:
        """What is wrong with a file, or None."""
        size = path.stat().st_size
        if not size:
            return "is empty"
        if self.size and size != self.size:
            return f"has {size:,} bytes, not {self.size:,}"
        algorithm, _, value = self.digest.partition(":")
        if value and (found := digest(path, algorithm)) != value:
            return f"has the {algorithm} {found}, not {value}"
        return None

    def __str__(self) -> str:
        known = [f"{self.size:,} bytes"] if self.size else []
        return ", ".join([*known, *([self.digest.replace(":", " ")] if self.digest else [])])


class _BrokenError(Exception):
    """The connection broke, or the server asks to come again."""


def digest(path: Path, algorithm: str) -> str:
    """A file's digest in hexadecimal digits."""
    state = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while data := file.read(CHUNK):
            state.update(data)
    return state.hexdigest()


def download(url: str, path: Path, expected: Expected = Expected()) -> None:
    """Fetch a URL to a path, going on from what an earlier attempt left.

    A connection that breaks is made again, up to TRIES times in a row without a new byte.

    Raises:
        CaffeError: the host or the file is not there, the file is not the one expected, or the disk is too small. What
            has arrived stays for the next attempt, unless it is wrong.
    """
    if not url.startswith(("http://", "https://")):
        raise CaffeError(f"{url}: only http and https addresses can be fetched")
    part = Part(path)
    part.begin(url, any_host=bool(expected.digest))
    _fetch(url, part, expected)
    problem = expected.problem(part.path)
    if problem and part.joined:
        # The pieces may be of different versions, where the server does not name versions.
        part.discard()
        _fetch(url, part, expected)
        problem = expected.problem(part.path)
    if problem:
        part.discard()
        raise CaffeError(f"{url}: what arrived {problem}; it was thrown away")
    part.finish()


class Part:
    """The piece of a file that has arrived.

    Attributes:
        path: where it is.
        target: where the whole file will be.
        validator: the server's name for the version it is of; "" if it has none.
        joined: whether it came in more than one answer.
    """

    def __init__(self, path: Path):
        self.target = path
        self.path = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        self.validator, self.joined = "", False

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, url: str, any_host: bool) -> None:
        """Keep a piece that came from this URL, or with `any_host` from another; throw any other away."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            same, validator = note["url"] == url, str(note["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            same, any_host = False, False
        if same:
            self.validator = validator
        elif not any_host:
            self.discard()

    def describe(self, url: str, validator: str) -> None:
        """Note where the piece comes from, for an attempt to go on."""
        self.validator = validator
        self._note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def discard(self) -> None:
        """Throw it away."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.validator, self.joined = "", False

    def finish(self) -> None:
        """Give the whole file its name."""
        os.replace(self.path, self.target)
        self._note.unlink(missing_ok=True)


def _fetch(url: str, part: Part, expected: Expected) -> None:
    """Get all of a file; returns when the server has no more."""
    tries = 0
    while True:
        before = part.size
        try:
            _continue(url, part, expected)
            return
        except _BrokenError as error:
            tries = 1 if part.size > before else tries + 1
            if tries >= TRIES:
                kept = f"; {part.size:,} bytes are kept, and the same command goes on from there" if part.size else ""
                raise CaffeError(f"{url}: {error}{kept}") from error
            time.sleep(WAIT * 2 ** (tries - 1))


def _continue(url: str, part: Part, expected: Expected) -> None:
    """Ask for what is missing and store it. Raises _BrokenError when that should be tried again."""
    start = part.size
    headers = {"User-Agent": "caffe-bridge", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if part.validator:
            headers["If-Range"] = part.validator
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            start, total = _place(url, answer, start, part, expected)
            _store(answer, part, start, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if whole and int(whole[1]) == start:
                return
            part.discard()
            raise _BrokenError("the server has less than what arrived before") from error
        text = f"{error.code} {error.reason}"
        if error.code in _PASSING:
            raise _BrokenError(text) from error
        raise CaffeError(f"{url}: {text}") from error
    except urllib.error.URLError as error:
        raise _BrokenError(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(str(error) or type(error).__name__) from error


def _place(url: str, answer: Any, start: int, part: Part, expected: Expected) -> tuple[int, int]:
    """Where the answer's bytes belong, and how many there will be in all (0 if unknown)."""
    length = answer.headers.get("Content-Length")
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != start:
            part.discard()
            raise _BrokenError("the server sent another part than was asked for")
        total = int(found[2]) if found[2] != "*" else 0
        part.joined = True
    else:
        if answer.headers.get_content_type() == "text/html":
            raise CaffeError(f"{url}: a web page came in place of the file")
        start, total = 0, int(length) if length and length.isdigit() else 0
        part.discard()
    if expected.size and total and total != expected.size:
        raise CaffeError(f"{url}: has {total:,} bytes, not {expected.size:,}: it is another file now")
    etag = answer.headers.get("ETag", "")
    part.describe(url, "" if etag.startswith("W/") else etag or answer.headers.get("Last-Modified", ""))
    free = shutil.disk_usage(part.path.parent).free
    if max(total, expected.size) - start > free - SPARE:
        missing = max(total, expected.size) - start
        raise CaffeError(f"{part.path.parent}: {free:,} bytes are free, {missing:,} are to come")
    return start, total or expected.size


def _store(answer: Any, part: Part, start: int, total: int) -> None:
    folder = part.path.parent
    bar = tqdm(
        total=total or None,
        initial=start,
        unit="B",
        unit_scale=True,
        desc=part.target.name,
        disable=not sys.stderr.isatty(),
    )
    with bar, open(part.path, "ab" if start else "wb") as file:
        size = start
        while data := answer.read(CHUNK):
            size += len(data)
            if total and size > total:
                raise CaffeError(f"{part.path}: more came than the {total:,} bytes the file has")
            if not total and shutil.disk_usage(folder).free < SPARE + len(data):
                raise CaffeError(f"{folder}: the disk is full, and the server does not say how much is to come")
            try:
                file.write(data)
                file.flush()
            except OSError as error:
                raise CaffeError(f"{part.path}: cannot be written: {error.strerror}") from error
            bar.update(len(data))
    if size < total:
        raise _BrokenError(f"the connection broke after {size:,} of {total:,} bytes")
