"""Fetching public archives into the data folder.

    fetch("sbd-images", Path("data"))

An archive is fetched to `downloads/` in the data folder, or found there, compared with its known size and digest,
unpacked, and removed; `.fetched/NAME.json` says that this is done.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

from caffe_bridge.archives import ARCHIVES, GROUPS, Archive
from caffe_bridge.downloads import digest, download
from caffe_bridge.errors import CaffeError
from caffe_bridge.unpacking import unpack

logger = logging.getLogger(__name__)


def names_of(name: str) -> tuple[str, ...]:
    """The archives a name stands for: itself, or those of its group. Raises CaffeError for an unknown name."""
    if name in ARCHIVES:
        return (name,)
    if name not in GROUPS:
        raise CaffeError(f"nothing is called '{name}'; there are {', '.join([*GROUPS, *ARCHIVES])}")
    return GROUPS[name]


def is_there(name: str, data: Path) -> bool:
    """Whether an archive was fetched to a data folder before, and what came of it is still there."""
    return _record(name, data).exists() and all((data / result).exists() for result in ARCHIVES[name].results)


def fetch(name: str, data: Path, url: str = "", keep: bool = False) -> list[Path]:
    """Fetch an archive and put its contents where data sets and scripts look for them.

    A file of the archive's name in `downloads/` is taken as it is, if it is the right one.

    Args:
        name: a key of ARCHIVES.
        data: the data folder (cfg.DATA_DIR).
        url: take it from there, and not from the usual hosts.
        keep: leave the archive in `downloads/`.

    Returns:
        What there is now.

    Raises:
        CaffeError: no host has it, it is another file than expected, or it cannot be unpacked.
    """
    archive = ARCHIVES[name]
    file = data / "downloads" / archive.file
    target = data / archive.folder / archive.file
    record = _record(name, data)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not archive.places and archive.digest and target.exists() and not archive.expected.problem(target):
            file = target
        elif file.exists():
            logger.info("%s: taken from %s", name, file)
            _check(file, archive)
        else:
            _download(name, archive, file, url)
        content = {"file": archive.file, "size": file.stat().st_size, "digest": _digest(name, archive, file, record)}
        if archive.places:
            logger.info("%s: unpacking", name)
            unpack(file, {inside: data / place for inside, place in archive.places.items()})
            if not keep:
                file.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CaffeError(f"{name}: {error.filename or data}: {error.strerror or error}") from error
    return [data / result for result in archive.results]


def _record(name: str, data: Path) -> Path:
    return data / ".fetched" / f"{name}.json"


def _check(file: Path, archive: Archive) -> None:
    problem = archive.expected.problem(file)
    if problem:
        raise CaffeError(f"{file}: {problem}, so it is another file or damaged; remove it to have it fetched")


def _download(name: str, archive: Archive, file: Path, url: str) -> None:
    """From the first host that has it."""
    failures = []
    for address in (url,) if url else archive.urls:
        logger.info("%s: from %s", name, address)
        try:
            download(address, file, archive.expected)
            return
        except CaffeError as error:
            failures.append(str(error))
            logger.warning("%s", error)
    hosts = ", ".join(dict.fromkeys(urlsplit(address).netloc for address in ((url,) if url else archive.urls)))
    known = f" ({archive.expected})" if str(archive.expected) else ""
    hint = f"; {archive.hint}" if archive.hint else ""
    raise CaffeError(
        f"{name}: not fetched from {hosts}: {'; '.join(failures)}. If the host is gone, look for a file {archive.file}"
        f"{known} elsewhere{hint}; then put it at {file} and run this again, or give its address with --from"
    )


def _digest(name: str, archive: Archive, file: Path, record: Path) -> str:
    """The digest that is published, or the file's own, compared with that of what was fetched before."""
    if archive.digest:
        return archive.digest
    own = f"sha256:{digest(file, 'sha256')}"
    logger.info("%s: no digest is published; this file has %s", name, own)
    try:
        before = json.loads(record.read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        before = own
    if before != own:
        logger.warning("%s: it is not the file that was fetched before, which had %s", name, before)
    return own
