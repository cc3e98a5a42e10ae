import cv2
import numpy as np
import pytest

from caffe_bridge import CaffeError, schema
from caffe_bridge.database import DatabaseWriter
from caffe_bridge.datum import make_datum
from caffe_bridge.tools import compute_image_mean
from caffe_bridge.weights import read_blobproto

pytest.importorskip("lmdb")


def write(path, datums):
    with DatabaseWriter(str(path), "LMDB") as writer:
        for i, datum in enumerate(datums):
            writer.put(b"%d" % i, datum.SerializeToString())


def test_mean_of_raw_encoded_and_float_data(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3)).astype(np.uint8)
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    encoded = schema.Datum(data=cv2.imencode(".png", images[1])[1].tobytes(), encoded=True)
    floats = schema.Datum(channels=3, height=5, width=6, float_data=planes[2].reshape(-1).tolist())
    write(tmp_path / "db", [make_datum(images[0], 0), encoded, floats])
    assert compute_image_mean.main([str(tmp_path / "db"), str(tmp_path / "mean")]) == 0
    mean = read_blobproto(tmp_path / "mean")
    np.testing.assert_array_equal(mean, [planes.sum(0) / np.float32(3)])
    printed = capsys.readouterr().out
    for channel, value in enumerate(planes.mean((0, 2, 3), dtype=np.float64)):
        assert f"mean_value channel [{channel}]: {value:g}" in printed
    assert schema.BlobProto.FromString((tmp_path / "mean").read_bytes()).channels == 3


def test_mean_is_caffes_to_the_bit(reference, tmp_path):
    compute_image_mean.main([str(reference / "files" / "train_lmdb"), str(tmp_path / "mean")])
    np.testing.assert_array_equal(
        read_blobproto(tmp_path / "mean"), read_blobproto(reference / "files" / "mean.binaryproto")
    )


def test_without_a_file_it_only_prints(tmp_path, capsys):
    write(tmp_path / "db", [make_datum(np.full((2, 2, 1), 7, np.uint8), 0)])
    assert compute_image_mean.main([str(tmp_path / "db")]) == 0
    assert "channel [0]: 7" in capsys.readouterr().out and sorted(p.name for p in tmp_path.iterdir()) == ["db"]


def test_refusals(tmp_path):
    write(tmp_path / "empty", [])
    write(tmp_path / "two", [make_datum(np.zeros((2, side, 1), np.uint8), 0) for side in (2, 3)])
    for name, message in [("absent", "no such folder"), ("empty", "holds no records"), ("two", "key '1': has shape")]:
        with pytest.raises(CaffeError, match=message):
            compute_image_mean.main([str(tmp_path / name)])
