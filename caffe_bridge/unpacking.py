"""Taking folders out of an archive, all or nothing, and nothing beyond them.

What is unpacked lies in a hidden folder beside its place until the archive has been read to its end, and is then moved.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO

from caffe_bridge.errors import CaffeError

SPARE = 64 << 20  # bytes that stay free on the disk

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)


def unpack(archive: Path, places: Mapping[str, Path]) -> None:
    """Put folders of a tar archive (compressed or not) or a zip where they belong.

    Args:
        places: a folder's path in the archive, in which * stands for any one name, to the folder its contents go to.
            Files that are there already are replaced; what is in no such folder of the archive is left out.

    Raises:
        CaffeError: the archive is damaged, has none of these folders, or holds a path or a link that leads out of them;
            a folder cannot be written, or the disk is too small. Nothing has been moved then.
    """
    with ExitStack() as stack:
        staged = {inside: _stage(archive, place, stack) for inside, place in places.items()}
        found = False
        try:
            for name, size, opened in _members(archive):
                parts = _safe_parts(archive, name)
                inside = next((inside for inside in places if _is_below(parts, inside)), None)
                if inside is None:
                    continue
                found = True
                target = staged[inside].joinpath(*parts[len(PurePosixPath(inside).parts) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                if size > shutil.disk_usage(target.parent).free - SPARE:
                    raise CaffeError(f"{target.parent}: no room for {name} with its {size:,} bytes")
                with opened as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
        except _DAMAGED as error:
            if isinstance(error, CaffeError):
                raise
            raise CaffeError(f"{archive}: damaged: {error}; remove it to have it fetched again") from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise CaffeError(f"{archive}: cannot be unpacked: {where}{error.strerror or error}") from error
        if not found:
            raise CaffeError(f"{archive}: holds no {' or '.join(places)}, so it is another archive")
        for inside, place in places.items():
            _move(staged[inside], place)


def _stage(archive: Path, place: Path, stack: ExitStack) -> Path:
    """An empty folder on the file system of `place`, which goes away in the end."""
    beside = place if place.is_dir() else place.parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        folder = beside / f".unpacking-{place.name}-{archive.name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    except OSError as error:
        raise CaffeError(f"{error.filename}: cannot be made: {error.strerror}") from error
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and contents of every file. Links and devices are refused: no data set has any."""
    with open(archive, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, zipped.open(info)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            contents = tar.extractfile(member) if member.isfile() else None
            if contents is not None:
                yield member.name, member.size, contents
            elif not member.isdir():
                raise CaffeError(f"{archive}: '{member.name}' is a link or a device, and is not unpacked")


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    """The names that a path in an archive is made of."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts or ":" in path.parts[0]:
        raise CaffeError(f"{archive}: the path {name!r} leads out of the archive's folder; nothing was unpacked")
    return path.parts


def _is_below(parts: tuple[str, ...], inside: str) -> bool:
    wanted = PurePosixPath(inside).parts
    return len(parts) > len(wanted) and all(w in ("*", part) for w, part in zip(wanted, parts))


def _move(source: Path, place: Path) -> None:
    """Move a folder to its place, into the folder that is there if there is one."""
    if not place.exists():
        os.rename(source, place)
        return
    for entry in os.scandir(source):
        target = place / entry.name
        if entry.is_dir(follow_symlinks=False) and target.is_dir():
            _move(Path(entry.path), target)
        else:
            os.replace(entry.path, target)
