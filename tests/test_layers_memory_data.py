import numpy as np
import pytest
from data_layers import check_resuming, run
from layer_cases import make_layer

from caffe_bridge import CaffeError, pycaffe
from caffe_bridge.datum import make_datum

SHAPE = "batch_size: 2 channels: 3 height: 4 width: 5"


def memory_data(transform=""):
    return make_layer(f'type: "MemoryData" memory_data_param {{ {SHAPE} }} transform_param {{ {transform} }}')


def arrays(count):
    data = np.random.default_rng(count).normal(size=(count, 3, 4, 5)).astype(np.float32)
    return data, np.arange(count, dtype=np.float32)


@pytest.mark.parametrize("label_axes", [1, 4])
def test_arrays_round_and_round(label_axes):
    layer = memory_data("scale: 9")
    assert layer.top_shapes([]) == [(2, 3, 4, 5), (2,)]
    data, labels = arrays(6)
    layer.set_input_arrays(data, labels.reshape(6, *[1] * (label_axes - 1)))
    for i, (batch, numbers) in enumerate(run(layer, 5)):
        rows = slice(2 * i % 6, 2 * i % 6 + 2)
        np.testing.assert_array_equal(batch, data[rows])
        assert numbers.shape == (2, 1, 1, 1) and numbers.reshape(-1).tolist() == labels[rows].tolist()
    assert layer.top_shapes([]) == [(2, 3, 4, 5), (2, 1, 1, 1)]


def test_new_arrays_start_over_and_tops_are_copies():
    layer = memory_data()
    data, labels = arrays(4)
    layer.set_input_arrays(data, labels)
    first, _ = layer()
    first.zero_()
    layer.set_input_arrays(data, labels)
    np.testing.assert_array_equal(layer()[0], data[:2])


def test_added_images_are_transformed():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3)).astype(np.uint8)
    wanted = ((pixels[:, 1:5, 1:6].astype(np.float32) - 100) * np.float32(0.5)).transpose(0, 3, 1, 2)
    crop = "mean_value: 100 scale: 0.5 crop_size: 4"
    layer = make_layer(
        'type: "MemoryData" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 4 } '
        f"transform_param {{ {crop} }}"
    )
    for add in (
        lambda: layer.add_datums([make_datum(image, i) for i, image in enumerate(pixels)]),
        lambda: layer.add_images(list(pixels), [0, 1, 2, 3]),
    ):
        add()
        with pytest.raises(CaffeError, match="until those added before are used up"):
            add()
        with pytest.raises(CaffeError, match="until the added images are used up"):
            layer.set_batch_size(1)
        for i, (batch, numbers) in enumerate(run(layer, 2)):
            np.testing.assert_array_equal(batch, wanted[2 * i : 2 * i + 2, :, :, :4])
            assert numbers.reshape(-1).tolist() == [2 * i, 2 * i + 1]


def test_batch_size_changes():
    layer = memory_data()
    layer.set_input_arrays(*arrays(4))
    layer.set_batch_size(3)
    with pytest.raises(CaffeError, match="has no data yet"):
        layer()
    layer.set_input_arrays(*arrays(3))
    assert layer()[0].shape == (3, 3, 4, 5) == layer.top_shapes([])[0]


def test_resuming():
    layers = [memory_data(), memory_data()]
    for layer in layers:
        layer.set_input_arrays(*arrays(6))
    run(layers[0], 2)
    check_resuming(*layers)
    layers[1].set_input_arrays(*arrays(2))
    with pytest.raises(CaffeError, match="row 4 was next"):
        layers[1].set_stream_state({"position": 4, "transform": {"stream": None}})


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (np.zeros((2, 3, 4, 5)), np.zeros(2, np.float32), "data must be a C-contiguous float32"),
        (np.zeros((2, 3, 5, 4), np.float32).swapaxes(2, 3), np.zeros(2, np.float32), "data must be a C-contiguous"),
        (np.zeros((2, 3, 4, 5), np.float32), [0, 0], "labels must be"),
        (np.zeros((2, 3, 5, 4), np.float32), np.zeros(2, np.float32), "items must have"),
        (np.zeros((2, 3, 4, 5), np.float32), np.zeros(3, np.float32), "one label for each of the 2"),
        (np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 1), np.float32), "labels have shape"),
        (np.zeros((3, 3, 4, 5), np.float32), np.zeros(3, np.float32), "no multiple of the batch size 2"),
        (np.zeros((0, 3, 4, 5), np.float32), np.zeros(0, np.float32), "no multiple"),
        (np.float32(1), np.zeros(1, np.float32), "data must be"),
    ],
)
def test_arrays_that_do_not_fit(data, labels, message):
    with pytest.raises(CaffeError, match=message):
        memory_data().set_input_arrays(data, labels)


def test_refusals():
    layer = memory_data()
    with pytest.raises(CaffeError, match="has no data yet"):
        layer()
    image = np.zeros((4, 5, 3), np.uint8)
    for images, labels, message in [
        ([], [], "no multiple"),
        ([image], [0], "no multiple"),
        ([image, image[:3]], [0, 0], "item 1 gives values of shape"),
        ([image, image[0]], [0, 0], "image 1 must be"),
        ([image, image], [0], "1 labels for 2 images"),
    ]:
        with pytest.raises(CaffeError, match=message):
            layer.add_images(images, labels)
    with pytest.raises(CaffeError, match="positive"):
        make_layer('type: "MemoryData" memory_data_param { batch_size: 2 channels: 3 height: 4 }')


def test_pycaffe_net():
    net = pycaffe.Net(f'layer {{ name: "m" type: "MemoryData" top: "x" top: "y" memory_data_param {{ {SHAPE} }} }}', 1)
    data, labels = arrays(4)
    net.set_input_arrays(data, labels)
    net.forward()
    assert net.blobs["y"].data.shape == (2, 1, 1, 1)
    np.testing.assert_array_equal(net.blobs["x"].data, data[:2])
