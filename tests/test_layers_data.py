import copy
import pickle

import cv2
import numpy as np
import pytest
import torch
from data_layers import check_resuming, run
from layer_cases import make_layer

import caffe_bridge
from caffe_bridge import CaffeError, pycaffe, schema, solver_shares
from caffe_bridge.database import DatabaseWriter
from caffe_bridge.datum import make_datum

pytest.importorskip("lmdb")


def write(path, datums):
    with DatabaseWriter(str(path), "LMDB") as writer:
        for i, datum in enumerate(datums):
            writer.put(b"%05d" % i, datum if isinstance(datum, bytes) else datum.SerializeToString())
    return path


def pixels(count, height=6, width=7, channels=3):
    return np.random.default_rng(4).integers(0, 256, (count, height, width, channels)).astype(np.uint8)


def data(path, batch_size=2, transform="", tops=2, phase="TEST", more="backend: LMDB"):
    names = " ".join(f'top: "{i}"' for i in range(tops))
    text = f'type: "Data" {names} data_param {{ source: "{path}" batch_size: {batch_size} {more} }}'
    return make_layer(f"{text} transform_param {{ {transform} }}", phase=phase)


@pytest.mark.parametrize(
    "name",
    ["hdf5", "image_grey", "image_native_size", "image_resize", "lmdb_png", "lmdb_raw_mean_crop", "memory"],
)
def test_recorded_layers(name, reference, monkeypatch):
    """Four passes of each data layer, as Caffe made them."""
    monkeypatch.chdir(reference / "data")
    wanted = np.load("expected.npz")
    net = pycaffe.Net(f"{name}.prototxt", pycaffe.TEST)
    if name == "memory":
        net.set_input_arrays(wanted["memory_in/x"].copy(), wanted["memory_in/y"].copy())
    step = {"image_resize": 0.0078125, "image_grey": 1}.get(name, 1e-4)  # grey levels may differ between OpenCVs
    for i in range(4):
        net.forward()
        for blob in ("data", "label"):
            np.testing.assert_allclose(net.blobs[blob].data, wanted[f"{name}/{blob}/{i}"], rtol=0, atol=1.01 * step)


def test_records_round_and_round(tmp_path):
    images = pixels(5)
    layer = data(write(tmp_path / "db", [make_datum(image, 10 + i) for i, image in enumerate(images)]))
    assert layer.top_shapes([]) == [(2, 3, 6, 7), (2,)]
    made = run(layer, 5)
    assert torch.cat([labels for _, labels in made]).tolist() == [10, 11, 12, 13, 14] * 2
    values = torch.cat([batch for batch, _ in made])
    assert values.dtype == torch.float32
    np.testing.assert_array_equal(values, np.concatenate([images, images]).transpose(0, 3, 1, 2))


def test_without_labels(tmp_path):
    layer = data(write(tmp_path / "db", [make_datum(pixels(1)[0], 1)]), tops=1)
    assert layer.top_shapes([]) == [(2, 3, 6, 7)] and len(layer()) == 1


def test_float_data(tmp_path):
    values = np.random.default_rng(0).normal(size=24).astype(np.float32)
    datum = schema.Datum(channels=2, height=3, width=4, float_data=values.tolist(), label=-3)
    ((made, labels),) = run(data(write(tmp_path / "db", [datum]), transform="scale: 3 mean_value: 0.1"), 1)
    wanted = (values - np.float32(0.1)) * np.float32(3)
    np.testing.assert_array_equal(made[1], wanted.reshape(2, 3, 4))
    assert labels.tolist() == [-3, -3]


@pytest.mark.parametrize(("force", "channels"), [("", None), ("force_color: true", 3), ("force_gray: true", 1)])
@pytest.mark.parametrize("stored", [1, 3, 4])
def test_encoded_images(tmp_path, force, channels, stored):
    image = pixels(1, channels=stored)[0]
    encoded = cv2.imencode(".png", image)[1].tobytes()
    layer = data(write(tmp_path / "db", [schema.Datum(data=encoded, encoded=True)]), transform=force)
    assert layer()[0].shape == (2, channels or stored, 6, 7)
    if channels in (None, stored):
        np.testing.assert_array_equal(layer()[0][0], image.transpose(2, 0, 1))


def test_images_of_any_size(tmp_path):
    datums = [make_datum(pixels(1, height, 7)[0], 0) for height in (6, 8, 9)]
    path = write(tmp_path / "db", datums)
    one = data(path, batch_size=1)
    assert [batch.shape[2] for batch, _ in run(one, 4)] == [6, 8, 9, 6]
    assert one.top_shapes([])[0] == (1, 3, 6, 7)
    assert data(path, batch_size=3, transform="crop_size: 5")()[0].shape == (3, 3, 5, 5)
    with pytest.raises(CaffeError, match=r"key '00001': gives values of shape \(3, 8, 7\)"):
        data(path, batch_size=3)()


@pytest.mark.parametrize("done", [0, 1, 4])
def test_resuming(tmp_path, done):
    path = write(tmp_path / "db", [make_datum(image, i) for i, image in enumerate(pixels(7, 9, 9))])
    layers = [data(path, 3, "crop_size: 4 mirror: true", phase="TRAIN") for _ in range(2)]
    run(layers[0], done)
    check_resuming(*layers)


def test_resuming_with_another_database(tmp_path):
    layer = data(write(tmp_path / "a", [make_datum(image, 0) for image in pixels(5)]), 4)
    layer()
    other = data(write(tmp_path / "b", [make_datum(image, 0) for image in pixels(2)]), 4)
    with pytest.raises(CaffeError, match="position in the data cannot be used.*no key b'00003'"):
        other.set_stream_state(layer.stream_state())


def test_copies_go_on_from_where_they_are(tmp_path):
    layer = data(write(tmp_path / "db", [make_datum(image, i) for i, image in enumerate(pixels(5))]))
    layer()
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    assert [made()[1].tolist() for made in (layer, *copies)] == [[2, 3]] * 3


NET = """
layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{db}" batch_size: 3 backend: LMDB }}
  transform_param {{ crop_size: 4 mirror: true scale: 0.01 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


@pytest.mark.parametrize("kind", ["BINARYPROTO", "HDF5"])
def test_a_resumed_run_sees_the_same_images(tmp_path, kind):
    db = write(tmp_path / "db", [make_datum(image, i % 4) for i, image in enumerate(pixels(7, 6, 6))])
    (tmp_path / "net.prototxt").write_text(NET.format(db=db))
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 9 '
        f'snapshot_prefix: "{tmp_path}/s" snapshot_format: {kind} random_seed: 5'
    )
    solver = caffe_bridge.Solver(tmp_path / "solver.prototxt")
    solver.step(4)
    state = solver.snapshot()
    solver.step(5)
    resumed = caffe_bridge.Solver(tmp_path / "solver.prototxt")
    resumed.restore(state)
    resumed.step(5)
    for mine, theirs in zip(solver.net.params["ip"], resumed.net.params["ip"], strict=True):
        assert torch.equal(mine, theirs)


def test_a_resumed_pycaffe_solver_starts_its_data_over(tmp_path):
    db = write(tmp_path / "db", [make_datum(image, i % 4) for i, image in enumerate(pixels(7, 6, 6))])
    text = f"base_lr: 0 lr_policy: 'fixed' max_iter: 9 snapshot_prefix: '{tmp_path}/s' "
    solver = pycaffe.SGDSolver(f"{text} net_param {{ {NET.format(db=db)} }}")
    solver.step(1)
    state = solver.snapshot()
    solver.restore(state)
    solver.step(1)
    assert solver.net.blobs["label"].data.tolist() == [3, 0, 1]  # a running one is not wound back
    fresh = pycaffe.SGDSolver(f"{text} net_param {{ {NET.format(db=db)} }}")
    fresh.restore(state)
    fresh.step(1)
    assert fresh.net.blobs["label"].data.tolist() == [0, 1, 2]


def test_nets_with_one_database(tmp_path):
    db = write(tmp_path / "db", [make_datum(image, 0) for image in pixels(3)])
    nets = [caffe_bridge.Net(NET.format(db=db), phase=phase) for phase in ("TRAIN", "TEST")]
    nets.append(copy.deepcopy(nets[0]))
    assert all(net()["loss"].isfinite() for net in nets)


@pytest.mark.parametrize(
    ("datum", "message"),
    [
        (b"\xff" * 40, "no Datum"),
        (b"", r"0 values for channels, height and width \(0, 0, 0\)"),
        (schema.Datum(channels=3, height=6, width=7, data=b"short"), "5 values"),
        (schema.Datum(channels=-3, height=-6, width=7, data=bytes(126)), "126 values"),
        (schema.Datum(channels=1 << 30, height=1 << 30, width=1 << 30, data=b"x"), "1 values"),
        (schema.Datum(channels=3, height=6, width=7), "0 values"),
        (schema.Datum(data=b"no image", encoded=True), "cannot be decoded"),
        (schema.Datum(data=b"", encoded=True), "cannot be decoded"),
        (schema.Datum(data=cv2.imencode(".png", np.zeros((6, 7), np.uint16))[1].tobytes(), encoded=True), "uint16"),
    ],
)
def test_corrupt_records(tmp_path, datum, message):
    path = write(tmp_path / "db", [make_datum(pixels(1)[0], 0), datum])
    with pytest.raises(CaffeError, match=f"db, key '00001': .*{message}"):
        data(path)()
    with pytest.raises(CaffeError, match=f"first, key '00000': .*{message}"):
        data(write(tmp_path / "first", [datum]))


def test_refusals(tmp_path):
    path = write(tmp_path / "db", [make_datum(pixels(1)[0], 0)])
    with pytest.raises(CaffeError, match="batch_size must be at least 1"):
        data(path, batch_size=0)
    with pytest.raises(CaffeError, match="6x7, smaller than crop_size 9"):
        data(path, transform="crop_size: 9")
    with pytest.raises(CaffeError, match="elements"):
        data(path, batch_size=1 << 31)
    with pytest.raises(CaffeError, match="takes 1 to 2 top"):
        data(path, tops=3)


def test_errors_name_the_layer(tmp_path):
    with pytest.raises(CaffeError, match=r"layer 'd' \(Data\).*nowhere: no such folder"):
        caffe_bridge.Net(NET.format(db=tmp_path / "nowhere"))


def labels_seen(layer, batches):
    return [int(label) for _ in range(batches) for label in layer()[1]]


def test_solvers_share_the_records(tmp_path, one_of_three):
    """Caffe's rule: record i is that of solver i modulo their number, counted on through the epochs."""
    path = write(tmp_path / "db", [make_datum(image.transpose(2, 0, 1), i) for i, image in enumerate(pixels(7))])
    wanted = [i % 7 for i in range(60) if i % 3 == 1]
    layer = data(path, phase="TRAIN")
    assert labels_seen(layer, 4) == wanted[:8]
    state = layer.stream_state()
    again = data(path, phase="TRAIN")
    again.set_stream_state(state)
    assert labels_seen(layer, 3) == labels_seen(again, 3) == wanted[8:14]
    assert labels_seen(data(path, phase="TEST"), 2) == [0, 1, 2, 3]
    solver_shares.set_solver_count(1)
    solver_shares.set_solver_rank(0)
    assert labels_seen(data(path, phase="TRAIN"), 2) == [0, 1, 2, 3]


def test_processes_of_torch_are_solvers(tmp_path, monkeypatch):
    path = write(tmp_path / "db", [make_datum(image.transpose(2, 0, 1), i) for i, image in enumerate(pixels(6))])
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert (pycaffe.solver_count(), pycaffe.solver_rank()) == (2, 1)
    assert labels_seen(data(path, phase="TRAIN"), 2) == [1, 3, 5, 1]
