"""The nets of Caffe's own distribution: they run in both faces, learn, and read the files they are meant for."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import caffe_bridge
from caffe_bridge import LayerError, pycaffe, randomness, schema, text_format
from caffe_bridge.database import DatabaseWriter
from caffe_bridge.datum import make_datum
from caffe_bridge.tools import compute_image_mean, make_prototxt
from caffe_bridge.tools.models.zoo import ZOO

ROOT = Path(__file__).parent.parent / "prototxt"
DATA_LAYERS = ("Data", "HDF5Data")
SHAPES = {
    "alexnet": [(1, 3, 227, 227), (1,)],
    "caffenet": [(1, 3, 227, 227), (1,)],
    "googlenet": [(1, 3, 224, 224), (1,)],
    "cifar10_quick": [(4, 3, 32, 32), (4,)],
    "cifar10_full": [(4, 3, 32, 32), (4,)],
    "siamese_lenet": [(6, 2, 28, 28), (6,)],
    "autoencoder": [(4, 1, 28, 28)],
    "logistic_regression": [(10, 4), (10,)],
    "lrcn": [(16, 3, 227, 227), (16,), (16,)],
}
"""Shapes of the data layers' tops in these tests."""

LARGE = ("alexnet", "caffenet", "caffenet_full_conv", "rcnn_ilsvrc13", "googlenet", "lrcn")
TRAINED = list(SHAPES)
DEPLOYED = [name for name in ZOO if name in (*SHAPES, *LARGE) and "deploy.prototxt" in ZOO[name].files()]
STAGES = {"autoencoder": ("test-on-train",)}


def read(name, file):
    path = ROOT / name / f"{file}.prototxt"
    message = schema.SolverParameter() if file == "solver" else schema.NetParameter()
    text_format.parse(path.read_text(), message, str(path))
    return message


def thin(name, file):
    """The committed net; with a sixteenth of the channels if it is a large one."""
    net = read(name, file)
    for layer in net.layer if name in LARGE else ():
        for field in ("convolution_param", "inner_product_param", "recurrent_param"):
            if layer.HasField(field):
                getattr(layer, field).num_output = max(getattr(layer, field).num_output // 16, 2)
    return net


def random_data(name, net):
    """The net with DummyData in place of its data layers: normal images, labels 0 or 1, clips that go on."""
    shapes = SHAPES[name]
    fillers = [{"type": "gaussian", "std": 1}, *[{"type": "constant", "value": 1}] * (len(shapes) - 1)]
    for layer in net.layer:
        if layer.type in DATA_LAYERS:
            kept = type(layer)(name=layer.name, type="DummyData", top=layer.top, include=layer.include)
            for shape, filler in zip(shapes, fillers):
                kept.dummy_data_param.shape.add(dim=shape)
                kept.dummy_data_param.data_filler.add(**filler)
            layer.CopyFrom(kept)
    return net


def small(name):
    net = random_data(name, thin(name, "train_test"))
    if name == "autoencoder":
        # A cross entropy wants targets between 0 and 1.
        for layer in net.layer:
            if layer.type == "DummyData":
                layer.dummy_data_param.data_filler[0].CopyFrom(schema.FillerParameter(type="uniform"))
    return net


def copy_parameters(source, target):
    with torch.no_grad():
        for name, blobs in target.params.items():
            for blob, values in zip(blobs, source.params[name], strict=True):
                blob.copy_(torch.from_numpy(values.data))


# -- the definitions -----------------------------------------------------------------------------------------


def test_every_published_net_is_committed_with_the_files_its_solver_names():
    for name, published in ZOO.items():
        assert {path.name for path in (ROOT / name).iterdir()} == set(published.files())
        if "solver.prototxt" in published.files():
            solver = read(name, "solver")
            assert (ROOT / name / solver.net).is_file() and solver.snapshot_prefix == name


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("alexnet", "train_test", 60_965_224),
        ("caffenet", "deploy", 60_965_224),
        ("caffenet_full_conv", "deploy", 60_965_224),
        ("rcnn_ilsvrc13", "deploy", 60_965_224 - 800 * 4097),
        ("googlenet", "train_test", 13_378_280),
        ("googlenet", "deploy", 6_998_552),
        ("cifar10_quick", "deploy", 145_578),
        ("cifar10_full", "deploy", 89_578),
        ("vgg16", "deploy", 138_357_544),
        ("resnet50", "deploy", 25_557_032 + 64 + 53_120 + 53),
        ("squeezenet", "deploy", 1_235_496),
        # Batch normalization's statistics and their factor are blobs, too.
        ("mobilenet", "deploy", 4_231_976 + 21_888 + 27),
        ("mobilenet_v2", "deploy", 3_504_872 + 34_112 + 52 + (32 * 32 + 4 * 32 + 1)),
        ("densenet121", "deploy", 7_978_856 + 83_648 + 121),
        ("inception_v3", "deploy", 23_851_784 + 17_216 + 94),
        ("unet", "deploy", 31_030_658),
        ("ssd300", "deploy", 26_285_486),
    ],
)
def test_number_of_parameters(name, file, count):
    net = read(name, file)
    for layer in net.layer:
        layer.ClearField("include")
    kept = [layer for i, layer in enumerate(net.layer) if layer.name not in {other.name for other in net.layer[:i]}]
    net = schema.NetParameter(layer=kept)
    if file == "train_test":
        random_data(name, net)
    graph = caffe_bridge.graph.build_graph(caffe_bridge.definition.read_net(net, "TRAIN"), "TRAIN")
    assert sum(blob.numel() for node in graph.nodes for blob in node.layer.blobs) == count


def test_classes_are_those_of_the_publication():
    with pytest.raises(caffe_bridge.CaffeError, match="'alexnet' has the classes it was published with"):
        make_prototxt.main(["alexnet", "--classes", "7", "--out", "x"])


# -- both faces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("name", TRAINED)
def test_both_faces_agree_forward_and_backward(name, phase, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(text_format.format(small(name)))
    stages = STAGES.get(name, ()) if phase == "TEST" else ()
    randomness.seed(3)
    caffe_net = pycaffe.Net(str(path), getattr(pycaffe, phase), stages=list(stages))
    outputs = caffe_net.forward()
    caffe_net.backward()
    randomness.seed(3)
    torch_net = caffe_bridge.Net(path, phase=phase, stages=stages)
    copy_parameters(caffe_net, torch_net)
    made = torch_net()
    torch_net.loss(made).backward()
    for blob, values in outputs.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(made[blob].detach().numpy(), values, rtol=1e-5, err_msg=blob)
    for layer, blobs in torch_net.params.items():
        # What biases add to both of a siamese pair cancels: only its weights learn for certain.
        assert caffe_net.params[layer][0].diff.any(), f"{layer} learns nothing"
        for blob, published in zip(blobs, caffe_net.params[layer], strict=True):
            scale = np.abs(published.diff).max()
            np.testing.assert_allclose(blob.grad.numpy(), published.diff, atol=1e-5 * scale, err_msg=layer)


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_its_solver_changes_all_weights(name, tmp_path):
    solver = read(name, "solver")
    solver.net_param.CopyFrom(small(name))
    solver.ClearField("net")
    solver.snapshot_prefix = str(tmp_path / name)
    solver.test_iter[:] = [1] * len(solver.test_iter)
    path = tmp_path / "solver.prototxt"
    path.write_text(text_format.format(solver))
    made = pycaffe.get_solver(str(path))
    before = {layer: blobs[0].data.copy() for layer, blobs in made.net.params.items()}
    made.step(1)
    for layer, blobs in made.net.params.items():
        assert all(np.isfinite(blob.data).all() for blob in blobs)
        assert not np.array_equal(blobs[0].data, before[layer]), layer
    scores = made.test_nets[0].forward()
    assert all(np.isfinite(values).all() for values in scores.values())


@pytest.mark.parametrize("name", DEPLOYED)
def test_deployed_net_takes_the_parameters_of_the_trained_one(name, tmp_path):
    deploy = thin(name, "deploy")
    deploy.layer[0].input_param.shape[0].dim[0] = 1
    if name == "caffenet_full_conv":
        deploy.layer[0].input_param.shape[0].dim[2:] = [259, 227]
    deployed = caffe_bridge.Net(deploy)
    image = torch.randn(*deploy.layer[0].input_param.shape[0].dim)
    (scores,) = deployed.outputs
    if name not in SHAPES:
        assert torch.isfinite(deployed(data=image)[scores]).all()
        return
    trained = small(name)
    for layer in list(trained.layer)[:2]:
        trained.layer.remove(layer)
    tops = ["pair_data", "sim"] if name == "siamese_lenet" else ["data", "label"]
    trained.input.extend(tops)
    for shape in SHAPES[name]:
        trained.input_shape.add(dim=shape)
    trained = caffe_bridge.Net(trained)
    trained.save(tmp_path / "trained.caffemodel")
    report = deployed.load(tmp_path / "trained.caffemodel")
    assert set(deployed.params) == {layer for layer, _ in report.loaded}
    batch = torch.cat([image, image], 1) if name == "siamese_lenet" else image
    below = "feat" if name == "siamese_lenet" else deployed.graph.nodes[-1].bottoms[0]
    expected = trained(**{tops[0]: batch, tops[1]: torch.zeros(1)}, blobs=[below])[below]
    torch.testing.assert_close(deployed(data=image, blobs=[below])[below], expected)


def cast_to_convolutions(tmp_path, padded):
    """CaffeNet and its cast as in the net surgery of Caffe's examples: the same numbers as kernels."""
    paths = {}
    for name in ("caffenet", "caffenet_full_conv"):
        paths[name] = tmp_path / f"{name}.prototxt"
        net = thin(name, "deploy")
        net.layer[0].input_param.shape[0].dim[0] = 1
        for layer in [] if padded else net.layer:
            layer.convolution_param.ClearField("pad")
            if layer.name == "fc6-conv":
                layer.convolution_param.kernel_size[:] = [2]
        paths[name].write_text(text_format.format(net))
    net = pycaffe.Net(str(paths["caffenet"]), pycaffe.TEST)
    for blobs in net.params.values():
        blobs[0].data[...] = np.random.randn(*blobs[0].data.shape) * (2 / blobs[0].data[0].size) ** 0.5
        blobs[1].data[...] = np.random.randn(*blobs[1].data.shape)
    net.save(str(tmp_path / "caffenet.caffemodel"))
    cast = pycaffe.Net(str(paths["caffenet_full_conv"]), str(tmp_path / "caffenet.caffemodel"), pycaffe.TEST)
    for layer in ("fc6", "fc7", "fc8"):
        weights, bias = net.params[layer]
        cast.params[f"{layer}-conv"][0].data.flat = weights.data.flat
        cast.params[f"{layer}-conv"][1].data[...] = bias.data
    return net, cast


def test_caffenet_cast_to_convolutions_agrees_on_one_window(tmp_path):
    net, cast = cast_to_convolutions(tmp_path, padded=True)
    assert cast.blobs["prob"].data.shape[2:] == (8, 8)
    image = np.random.randn(1, 3, 227, 227) * 50
    cast.blobs["data"].reshape(*image.shape)
    scores = cast.forward(data=image)["prob"]
    assert scores.shape[2:] == (1, 1)
    np.testing.assert_allclose(scores[:, :, 0, 0], net.forward(data=image)["prob"], rtol=1e-4, atol=1e-7)


def test_caffenet_cast_to_convolutions_classifies_every_window(tmp_path):
    """Positions are windows 32 pixels apart, exactly so where no padding stands in for what surrounds a window."""
    net, cast = cast_to_convolutions(tmp_path, padded=False)
    image = np.random.randn(1, 3, 451, 451) * 50
    scores = cast.forward(data=image)["prob"]
    assert scores.shape[2:] == (8, 8)
    for row, column in ((0, 0), (7, 7), (2, 5)):
        window = image[:, :, 32 * row :, 32 * column :][:, :, :227, :227]
        expected = net.forward(data=window)["prob"]
        np.testing.assert_allclose(scores[:, :, row, column], expected, rtol=1e-4, atol=1e-7)


# -- the files they read -------------------------------------------------------------------------------------


def write_lmdb(path, shape, count=4, labels=2):
    with DatabaseWriter(str(path), "LMDB") as database:
        for i in range(count):
            image = np.random.randint(0, 256, shape).astype(np.uint8)
            database.put(f"{i:08d}".encode(), make_datum(image, i % labels).SerializeToString())


def write_hdf5(folder, split, **rows):
    with h5py.File(folder / f"{split}.h5", "w") as file:
        for name, values in rows.items():
            file[name] = values.astype(np.float32)
    (folder / f"{split}.txt").write_text(f"{split}.h5\n")


def prepare(name, folder):
    """The data sets a committed definition names, tiny."""
    labels = np.arange(20) % 2
    for split in ("train", "test"):
        match name:
            case "cifar10_quick" | "cifar10_full":
                write_lmdb(folder / f"cifar10_{split}_lmdb", (32, 32, 3))
            case "siamese_lenet":
                write_lmdb(folder / f"siamese_{split}_lmdb", (28, 28, 2))
            case "autoencoder":
                write_lmdb(folder / f"mnist_{split}_lmdb", (28, 28, 1))
            case "logistic_regression":
                write_hdf5(folder, split, data=np.random.randn(20, 4), label=labels)
            case "lrcn":
                rows = np.random.randn(16, 3, 227, 227)
                write_hdf5(folder, split, data=rows, label=labels[:16], clip_markers=np.arange(16) > 0)
            case "alexnet" | "caffenet" | "googlenet":
                write_lmdb(folder / f"ilsvrc12_{'train' if split == 'train' else 'val'}_lmdb", (256, 256, 3))
    if name.startswith("cifar10"):
        compute_image_mean.main(["cifar10_train_lmdb", "cifar10_mean.binaryproto"])
    if name in ("alexnet", "caffenet"):
        compute_image_mean.main(["ilsvrc12_train_lmdb", "imagenet_mean.binaryproto"])


@pytest.mark.parametrize("name", TRAINED)
def test_trains_from_the_files_it_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(name, tmp_path)
    net = thin(name, "train_test")
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.batch_size = 1
        elif layer.type == "HDF5Data":
            layer.hdf5_data_param.batch_size = 16
    Path("train_test.prototxt").write_text(text_format.format(net))
    solver = read(name, "solver")
    solver.test_iter[:] = [1] * len(solver.test_iter)
    solver.test_interval = solver.max_iter = 1
    Path("solver.prototxt").write_text(text_format.format(solver))
    made = caffe_bridge.Solver("solver.prototxt")
    made.solve()
    assert made.iter == 1 and list(tmp_path.glob(f"{name}_iter_1.caffemodel*"))


def test_data_layers_refuse_to_start_without_their_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LayerError, match="cifar10"):
        caffe_bridge.Net(ROOT / "cifar10_quick" / "train_test.prototxt", phase="TRAIN")
