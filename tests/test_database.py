import copy
import gc
import os
import pickle
import shutil
import sys

import pytest

from caffe_bridge import CaffeError
from caffe_bridge.database import DatabaseWriter, Records


@pytest.fixture(params=["LMDB", "LEVELDB"])
def backend(request):
    pytest.importorskip({"LMDB": "lmdb", "LEVELDB": "plyvel"}[request.param])
    return request.param


@pytest.fixture
def database(tmp_path, backend):
    """Five records, written out of order."""
    path = str(tmp_path / "db")
    with DatabaseWriter(path, backend) as writer:
        for i in (3, 0, 4, 1, 2):
            writer.put(f"{i:03d}".encode(), bytes([i]) * (i * 5000))
    return path


def test_records_come_in_order_round_and_round(database, backend):
    records = Records(database, backend)
    assert records.peek() == records.peek() == (b"000", b"")
    assert [records.read()[0][-1] - 48 for _ in range(12)] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert [(key, len(value)) for key, value in records] == [(b"%03d" % i, i * 5000) for i in range(5)]
    assert records.read()[0] == b"002"


def test_several_readers_and_copies(database, backend):
    records = Records(database, backend)
    records.read()
    others = [Records(database, backend), copy.deepcopy(records), pickle.loads(pickle.dumps(records))]
    assert [other.read()[0] for other in others] == [b"000", b"001", b"001"]
    assert records.read()[0] == b"001"


def test_closed_when_nobody_reads(database, backend):
    records = Records(database, backend)
    records.read()
    del records
    gc.collect()
    shutil.move(database, database + "2")
    assert Records(database + "2", backend).read()[0] == b"000"


def test_position_continues(database, backend):
    records, other = Records(database, backend), Records(database, backend)
    other.set_state(records.state())
    assert other.read()[0] == b"000"
    for _ in range(5):
        records.read()
    other.set_state(records.state())
    assert other.read()[0] == records.read()[0] == b"000"
    with pytest.raises(ValueError, match="no key b'777'"):
        other.set_state({"last": "Nzc3"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_read_on_after_a_fork(tmp_path):
    pytest.importorskip("lmdb")
    with DatabaseWriter(str(tmp_path / "db"), "LMDB") as writer:
        writer.put(b"a", b"1")
        writer.put(b"b", b"2")
    records = Records(str(tmp_path / "db"), "LMDB")
    records.read()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if records.read() == (b"b", b"2") and Records(records.path, "LMDB").read()[0] == b"a" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert records.read() == (b"b", b"2")


def test_a_writer_grows_the_map(tmp_path, backend):
    path = str(tmp_path / "db")
    with DatabaseWriter(path, backend) as writer:
        for i in range(30):
            writer.put(b"%02d" % i, os.urandom(1 << 20))
    assert sum(len(value) for _, value in Records(path, backend)) == 30 << 20


def test_a_writer_wants_a_new_folder(database, backend, tmp_path):
    with pytest.raises(CaffeError, match="File exists"):
        DatabaseWriter(database, backend)
    with pytest.raises(CaffeError, match="No such file"):
        DatabaseWriter(str(tmp_path / "none" / "db"), backend)


def test_a_key_too_long(tmp_path):
    pytest.importorskip("lmdb")
    with pytest.raises(CaffeError, match="cannot be written"), DatabaseWriter(str(tmp_path / "db"), "LMDB") as writer:
        writer.put(b"k" * 600, b"")


def test_absent_empty_and_mistaken(tmp_path, database, backend):
    other = {"LMDB": "LEVELDB", "LEVELDB": "LMDB"}[backend]
    pytest.importorskip({"LMDB": "lmdb", "LEVELDB": "plyvel"}[other])
    with pytest.raises(CaffeError, match=f"backend: {backend}"):
        Records(database, other)
    with pytest.raises(CaffeError, match="nowhere: no such folder"):
        Records(str(tmp_path / "nowhere"), backend)
    with pytest.raises(CaffeError, match="source is not given"):
        Records("", backend)
    with DatabaseWriter(str(tmp_path / "empty"), backend):
        pass
    with pytest.raises(CaffeError, match="empty: holds no records"):
        Records(str(tmp_path / "empty"), backend).read()


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, 20000, -1])
def test_truncated_lmdb(tmp_path, keep):
    pytest.importorskip("lmdb")
    with DatabaseWriter(str(tmp_path / "db"), "LMDB") as writer:
        writer.put(b"a", bytes(20000))
    with open(tmp_path / "db" / "data.mdb", "r+b") as file:
        file.truncate(keep if keep >= 0 else os.fstat(file.fileno()).st_size - 1)
    with pytest.raises(CaffeError, match="db"):
        Records(str(tmp_path / "db"), "LMDB").read()


def test_foreign_bytes(tmp_path):
    pytest.importorskip("lmdb")
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(CaffeError, match="not an LMDB"):
        Records(str(tmp_path), "LMDB").read()


@pytest.mark.parametrize(("backend", "package", "extra"), [("LMDB", "lmdb", "lmdb"), ("LEVELDB", "plyvel", "leveldb")])
def test_a_missing_package_is_named(backend, package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for make in (Records, DatabaseWriter):
        with pytest.raises(CaffeError, match=rf"pip install 'caffe-bridge\[{extra}\]'"):
            make(str(tmp_path / "db"), backend)
