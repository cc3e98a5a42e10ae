"""The key-value stores that hold Caffe's Datum records: LMDB and LevelDB.

    Records(path, backend)       reads records in the order of their keys, round and round
    DatabaseWriter(path, backend)  makes a new database

LMDB needs the `lmdb` package, LevelDB `plyvel`; both are extras of caffe-bridge.
"""

from __future__ import annotations

import base64
import importlib
import os
import struct
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from caffe_bridge import schema
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.solver_shares import Turns

Record = tuple[bytes, bytes]

BACKENDS = {"LMDB": ("lmdb", "lmdb"), "LEVELDB": ("plyvel", "leveldb")}  # package, extra


def backend_name(value: int) -> str:
    """ "LMDB" or "LEVELDB", from DataParameter's enum."""
    return schema.DataParameter.DB.Name(value)


def _package(backend: str) -> Any:
    package, extra = BACKENDS[backend]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LayerError(f"{backend} needs the package {package}: pip install 'caffe-bridge[{extra}]'") from error


class _Handle(ABC):
    """An open database."""

    @abstractmethod
    def find(self, key: bytes, after: bool) -> Record | None:
        """The first record whose key is at least `key` (greater than it if `after`), in the order of bytes."""


class _Lmdb(_Handle):
    def __init__(self, path: str):
        _check_whole(os.path.join(path, "data.mdb"))
        self._environment = _package("LMDB").open(path, readonly=True, lock=False, create=False)

    def find(self, key: bytes, after: bool) -> Record | None:
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(key)
            if found and after and cursor.key() == key:
                found = cursor.next()
            return cursor.item() if found else None


def _check_whole(path: str) -> None:
    """LayerError for a data.mdb that is shorter than its own header says: LMDB maps it, and would die reading it."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        page_size = _page_size(file.read(_META.size))
        if page_size is None:
            return
        pages = []
        for start in (0, page_size):
            file.seek(start)
            meta = file.read(_META.size)
            if _page_size(meta) is not None:
                _, _, _, last_page, transaction = _META.unpack(meta)
                pages.append((transaction, last_page + 1))
    needed = max(pages)[1] * page_size
    if size < needed:
        raise LayerError(f"{path}: truncated: {size} bytes of {needed}")


# A meta page of LMDB on 64 bits: magic and version, the page size, the last page in use, the transaction.
_META = struct.Struct("<16x I I 16x I 92x Q Q")
_MAGIC = 0xBEEFC0DE


def _page_size(meta: bytes) -> int | None:
    if len(meta) < _META.size or _META.unpack(meta)[0] != _MAGIC:
        return None
    return _META.unpack(meta)[2] or None


class _LevelDb(_Handle):
    def __init__(self, path: str):
        self._database = _package("LEVELDB").DB(path, create_if_missing=False)

    def find(self, key: bytes, after: bool) -> Record | None:
        with self._database.iterator(start=key, include_start=not after) as records:
            return next(records, None)


_HANDLES = {"LMDB": _Lmdb, "LEVELDB": _LevelDb}
_open: weakref.WeakValueDictionary[tuple[str, int], _Handle] = weakref.WeakValueDictionary()
_opening = threading.Lock()


def _handle(path: str, backend: str) -> _Handle:
    """The process's one handle on a database, since neither store can be opened twice; a forked child inherits it."""
    file = os.path.join(path, "data.mdb") if backend == "LMDB" else path
    place = (os.path.realpath(path), os.stat(file).st_ino)  # the path may hold another database by now
    with _opening:
        handle = _open.get(place)
        if handle is None:
            handle = _open[place] = _HANDLES[backend](path)
        return handle


class Records:
    """Reads the records of a database in the order of their keys, starting over at the end.

    The database is opened at the first look and stays open while somebody reads it; copies and pickles open it again.

    Args:
        path: the database's folder.
        backend: "LMDB" or "LEVELDB".
        phase: in TRAIN `read` leaves out what other solvers read (`caffe_bridge.solver_shares`).

    Raises:
        LayerError: there is no such database, it is empty or damaged, or the backend's package is not installed.
    """

    def __init__(self, path: str, backend: str, phase: str = "TEST"):
        if not path:
            raise LayerError("source is not given")
        if backend not in BACKENDS:
            raise LayerError(f"backend is {' or '.join(BACKENDS)}, not {backend}")
        _package(backend)
        self.path, self.backend = os.path.abspath(path), backend
        self._name = path
        self._last: bytes | None = None
        self._turns = Turns(phase)
        self._handle: _Handle | None = None
        self._check_place()

    def _check_place(self) -> None:
        if not os.path.isdir(self.path):
            raise LayerError(f"{self.backend} {self._name}: no such folder")
        is_lmdb = os.path.exists(os.path.join(self.path, "data.mdb"))
        if is_lmdb != (self.backend == "LMDB"):
            actual = "is an LMDB; say backend: LMDB" if is_lmdb else "holds no data.mdb; perhaps backend: LEVELDB"
            raise LayerError(f"{self.backend} {self._name}: {actual}")

    def _find(self, key: bytes, after: bool = False) -> Record | None:
        try:
            self._handle = self._handle or _handle(self.path, self.backend)
            return self._handle.find(key, after)
        except (OSError, _package(self.backend).Error) as error:
            raise LayerError(f"{self.backend} {self._name}: {error}") from error

    def peek(self) -> Record:
        """The next record, (key, value), without going on to it."""
        record = self._find(b"") if self._last is None else self._find(self._last, after=True) or self._find(b"")
        if record is None:
            raise LayerError(f"{self.backend} {self._name}: holds no records")
        return record

    def read(self) -> Record:
        """This solver's next record, (key, value)."""
        for _ in range(self._turns.skip() + 1):
            record = self.peek()
            self._last = record[0]
        return record

    def __iter__(self) -> Iterator[Record]:
        """Every record once, from the first; does not move `read`."""
        record = self._find(b"")
        while record is not None:
            yield record
            record = self._find(record[0], after=True)

    def describe(self, key: bytes) -> str:
        """What errors call a record."""
        return f"{self.backend} {self._name}, key {key.decode('utf-8', 'backslashreplace')!r}"

    def state(self) -> dict[str, Any]:
        """The key last read, and how many records all solvers read."""
        last = None if self._last is None else base64.b64encode(self._last).decode()
        return {"last": last, **self._turns.state()}

    def set_state(self, saved: Mapping[str, Any]) -> None:
        """Go on after the key of a `state`. Raises ValueError when the database has no such key."""
        last = None if saved["last"] is None else base64.b64decode(saved["last"])
        if last is not None and (self._find(last) or (None,))[0] != last:
            raise ValueError(f"{self.backend} {self._name} has no key {last!r}")
        self._last = last
        self._turns.set_state(saved)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


class DatabaseWriter:
    """Makes a database in a new folder; use it in a `with` statement.

    Args:
        path: the folder, which must not exist yet.
        backend: "LMDB" or "LEVELDB".

    Raises:
        CaffeError: the folder exists or cannot be made, a key is unfit, or the backend's package is not installed.
    """

    _BATCH_RECORDS, _BATCH_BYTES = 1000, 1 << 26

    def __init__(self, path: str, backend: str):
        if backend not in BACKENDS:
            raise CaffeError(f"a backend is {' or '.join(BACKENDS)}, not {backend}")
        package = _package(backend)
        try:
            os.mkdir(path)
        except OSError as error:
            raise CaffeError(f"{path}: cannot be made: {error.strerror}") from error
        self._path, self._error = path, package.Error
        self._full = getattr(package, "MapFullError", ())
        self._database = package.open(path) if backend == "LMDB" else package.DB(path, create_if_missing=True)
        self._commit = self._commit_lmdb if backend == "LMDB" else self._commit_leveldb
        self._batch: list[Record] = []
        self._bytes = 0

    def put(self, key: bytes, value: bytes) -> None:
        """Add a record."""
        self._batch.append((key, value))
        self._bytes += len(key) + len(value)
        if len(self._batch) >= self._BATCH_RECORDS or self._bytes >= self._BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        try:
            self._commit()
        except self._error as error:
            keys = f"{self._batch[0][0]!r} to {self._batch[-1][0]!r}"
            raise CaffeError(f"{self._path}: records {keys} cannot be written: {error}") from error
        self._batch, self._bytes = [], 0

    def _commit_lmdb(self) -> None:
        while True:
            try:
                with self._database.begin(write=True) as transaction:
                    for key, value in self._batch:
                        transaction.put(key, value)
                return
            except self._full:
                self._database.set_mapsize(2 * self._database.info()["map_size"])

    def _commit_leveldb(self) -> None:
        with self._database.write_batch() as batch:
            for key, value in self._batch:
                batch.put(key, value)

    def __enter__(self) -> DatabaseWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._database.close()
