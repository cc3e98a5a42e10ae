"""extract_features: blobs of a net as LMDB or HDF5."""

import logging
import sys

import h5py
import numpy as np
import pytest

from caffe_bridge import cli, pycaffe, schema
from caffe_bridge.database import Records

NET = """
layer { name: "data" type: "DummyData" top: "data"
        dummy_data_param { shape { dim: 5 dim: 3 dim: 4 dim: 2 } data_filler { type: "constant" value: 2 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
        inner_product_param { num_output: 7 weight_filler { type: "gaussian" } } }
layer { name: "sum" type: "Reduction" bottom: "fc" top: "sum" }
"""


@pytest.fixture(autouse=True)
def net(monkeypatch, tmp_path):
    """A net whose weights are in net.caffemodel."""
    logger = logging.getLogger("caffe_bridge")
    before, level, modules = list(logger.handlers), logger.level, set(sys.modules)
    monkeypatch.setattr(sys, "argv", ["caffe-bridge"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    made = pycaffe.Net("net.prototxt", pycaffe.TEST)
    made.save("net.caffemodel")
    made.forward()
    yield made
    logger.handlers[:] = before
    logger.setLevel(level)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == "caffe":
            del sys.modules[name]


def extract(*arguments):
    return cli.main(["extract_features", "net.caffemodel", "net.prototxt", *arguments])


def test_lmdb_holds_a_datum_for_each_item(net):
    pytest.importorskip("lmdb")
    assert extract("fc,pool", "features,pooled", "3", "lmdb", "CPU") == 0
    for path, blob, shape in (("features", "fc", (7, 1, 1)), ("pooled", "pool", (3, 3, 1))):
        records = list(Records(path, "LMDB"))
        assert [key for key, _ in records] == [b"%010d" % i for i in range(15)]
        for i, (_, value) in enumerate(records):
            datum = schema.Datum.FromString(value)
            assert (datum.channels, datum.height, datum.width) == shape
            np.testing.assert_array_equal(datum.float_data, net.blobs[blob].data[i % 5].ravel())


def test_hdf5_can_be_read_as_data(net, tmp_path):
    assert extract("fc", "features.h5", "2", "hdf5") == 0
    with h5py.File("features.h5") as file:
        np.testing.assert_array_equal(file["fc"], np.tile(net.blobs["fc"].data, (2, 1)))
    (tmp_path / "list.txt").write_text("features.h5\n")
    again = tmp_path / "again.prototxt"
    again.write_text("""layer { name: "data" type: "HDF5Data" top: "fc"
        hdf5_data_param { source: "list.txt" batch_size: 10 } }""")
    assert pycaffe.Net(str(again), pycaffe.TEST).forward()["fc"].shape == (10, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fc,pool", "one.h5", "1", "hdf5"], "2 blobs but 1 outputs"),
        (["fc", "one.h5", "0", "hdf5"], "the number of batches is at least 1"),
        (["fc8", "one.h5", "1", "hdf5"], "net.prototxt has no blob 'fc8'; it has data, pool, fc, sum"),
        (["fc", "net.prototxt", "1", "hdf5"], "net.prototxt: cannot be made"),
        (["fc", "absent/one.h5", "1", "hdf5"], "absent/one.h5: cannot be made"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(capsys, arguments, message):
    assert extract(*arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
