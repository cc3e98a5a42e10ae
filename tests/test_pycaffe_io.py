"""pycaffe's io: messages, the Transformer, image files, resizing as scikit-image did it, crops."""

import cv2
import numpy as np
import pytest

from caffe_bridge import schema
from caffe_bridge.errors import CaffeError
from caffe_bridge.pycaffe import io


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_blobproto_round_trip(shape):
    values, diff = np.random.standard_normal((2, *shape)).astype(np.float32)
    values, diff = np.asarray(values), np.asarray(diff)
    blob = io.array_to_blobproto(values, diff)
    assert tuple(blob.shape.dim) == shape
    np.testing.assert_array_equal(io.blobproto_to_array(blob), values)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), diff)


def test_blobproto_of_old_form_has_four_axes():
    blob = schema.BlobProto(data=range(6), channels=2, height=3, width=1, num=1)
    assert io.blobproto_to_array(blob).shape == (1, 2, 3, 1)
    double = schema.BlobProto(double_data=[1 / 3, 2], shape=schema.BlobShape(dim=[2]))
    assert io.blobproto_to_array(double)[0] == 1 / 3


def test_blobproto_whose_values_do_not_fit_is_an_error():
    with pytest.raises(ValueError):
        io.blobproto_to_array(schema.BlobProto(data=range(6), shape=schema.BlobShape(dim=[4])))


def test_blobprotovector_round_trip():
    arrays = [np.arange(6.0).reshape(2, 3), np.ones((1, 2, 2))]
    back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(arrays))
    for array, other in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_datum_round_trip(dtype):
    array = np.random.randint(0, 255, (3, 4, 5)).astype(dtype)
    datum = io.array_to_datum(array, label=7)
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 4, 5, 7)
    assert bool(datum.data) == (dtype == np.uint8) and not io.array_to_datum(array).HasField("label")
    back = io.datum_to_array(schema.Datum.FromString(datum.SerializeToString()))
    np.testing.assert_array_equal(back, array)
    back[0, 0, 0] = 1


def test_datum_errors():
    with pytest.raises(ValueError, match="shape"):
        io.array_to_datum(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="encoded"):
        io.datum_to_array(schema.Datum(data=b"\xff\xd8", encoded=True))


def warped(image, size, order):
    """What skimage.transform.resize of pycaffe's days computed: an affine warp with zeros outside."""
    transform = pytest.importorskip("skimage.transform")
    scale_y, scale_x = image.shape[0] / size[0], image.shape[1] / size[1]
    matrix = [[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]]
    low, high = image.min(), image.max()
    unit = (image - low) / (high - low)
    made = transform.warp(unit, transform.AffineTransform(matrix=np.array(matrix)), output_shape=size, order=order)
    return made * (high - low) + low


SIZES = [
    ((5, 7), (8, 4)),
    ((9, 6), (30, 11)),
    ((10, 10), (1, 1)),
    ((1, 5), (3, 3)),
    ((6, 6), (3, 12)),
    ((1, 1), (4, 4)),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("before, after", SIZES)
def test_resize_is_scikit_images_warp(before, after, channels):
    image = np.random.uniform(-3, 9, (*before, channels))
    if image.size == 1:
        image = np.concatenate([image, image + 1], axis=0)
    made = io.resize_image(image, after)
    assert made.dtype == np.float32 and made.shape == (*after, channels)
    np.testing.assert_allclose(made, warped(image, after, 1), rtol=1e-6, atol=1e-6)
    if min(before) > 1:
        np.testing.assert_allclose(io.resize_image(image, after, 0), warped(image, after, 0), rtol=1e-6)


def test_resize_darkens_the_border_as_pycaffe_did():
    image = np.array([[[4.0], [8.0]], [[8.0], [8.0]]])
    made = io.resize_image(image, (4, 4))[..., 0]
    # Cell (0, 3) lies a quarter outside in both axes; what is outside counts as the smallest value, 4.
    assert made[0, 3] == pytest.approx(4 + (8 - 4) * 0.75 * 0.75)
    assert made[1, 2] == pytest.approx(4 + 4 * (1 - 0.75 * 0.25))


def test_resize_of_a_constant_and_of_many_channels():
    constant = io.resize_image(np.full((3, 4, 3), 5, np.uint8), (6, 2))
    assert constant.shape == (6, 2, 3) and (constant == 5).all() and constant.dtype == np.float32
    ramp = np.arange(5.0)[:, None, None] * np.ones((5, 3, 4))
    made = io.resize_image(ramp, (9, 3))
    np.testing.assert_allclose(made[:, 0, 0], np.linspace(0, 4, 9), atol=1e-6)
    assert made.shape == (9, 3, 4)


def test_resize_of_integers_is_that_of_floats():
    image = np.random.randint(-120, 120, (6, 5, 3)).astype(np.int8)
    np.testing.assert_array_equal(io.resize_image(image, (4, 9)), io.resize_image(image.astype(float), (4, 9)))


@pytest.fixture
def transformer():
    made = io.Transformer({"data": (10, 3, 4, 6)})
    made.set_transpose("data", (2, 0, 1))
    return made


def test_preprocess_makes_its_steps_in_caffes_order(transformer):
    image = np.random.rand(4, 6, 3).astype(np.float32)
    before = image.copy()
    mean = np.array([10.0, 20.0, 30.0])
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", mean)
    transformer.set_input_scale("data", 0.5)
    made = transformer.preprocess("data", image)
    expected = (image.transpose(2, 0, 1)[::-1] * 255 - mean[:, None, None]) * 0.5
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, rtol=1e-5)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_allclose(transformer.deprocess("data", made[None]), image, atol=1e-6)


def test_preprocess_without_settings_leaves_the_callers_image_alone():
    image = np.ones((4, 6, 3), np.float32)
    made = io.Transformer({"data": (1, 3, 4, 6)})
    made.set_raw_scale("data", 2)
    assert (made.preprocess("data", image) == 2).all() and (image == 1).all()


def test_preprocess_resizes(transformer):
    image = np.random.rand(9, 9, 3).astype(np.float32)
    expected = io.resize_image(image, (4, 6)).transpose(2, 0, 1)
    np.testing.assert_array_equal(transformer.preprocess("data", image), expected)


@pytest.mark.parametrize(
    "shape, kept", [((3,), (3, 1, 1)), ((3, 1, 1), (3, 1, 1)), ((3, 4, 6), (3, 4, 6)), ((3, 8, 8), (3, 4, 6))]
)
def test_mean_of_every_form(transformer, shape, kept):
    transformer.set_mean("data", np.random.rand(*shape))
    assert transformer.mean["data"].shape == kept
    transformer.set_mean("data", np.full(shape, 7.0))
    assert (transformer.preprocess("data", np.zeros((4, 6, 3))) == -7).all()


def test_mean_image_of_one_channel():
    made = io.Transformer({"data": (1, 1, 2, 2)})
    made.set_mean("data", np.arange(16.0).reshape(4, 4))
    assert made.mean["data"].shape == (1, 2, 2)


def test_transformer_errors(transformer):
    with pytest.raises(CaffeError, match="'image' is not one of the net's inputs: data"):
        transformer.preprocess("image", np.zeros((4, 6, 3)))
    with pytest.raises(CaffeError, match="3 axes"):
        transformer.set_transpose("data", (1, 0))
    with pytest.raises(CaffeError, match="3 channels"):
        transformer.set_channel_swap("data", (1, 0))
    for shape in ((4,), (2, 4, 6), (1, 3, 4, 6)):
        with pytest.raises(ValueError, match="mean"):
            transformer.set_mean("data", np.zeros(shape))


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_load_image(tmp_path, dtype, top, channels):
    stored = np.random.randint(0, top + 1, (5, 7, channels)).astype(dtype)
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    rgb = stored[:, :, [0, 0, 0] if channels == 1 else [2, 1, 0]] / top
    color, gray = io.load_image(str(tmp_path / "a.png")), io.load_image(tmp_path / "a.png", color=False)
    assert color.dtype == gray.dtype == np.float32 and color.shape == (5, 7, 3) and gray.shape == (5, 7, 1)
    np.testing.assert_allclose(color, rgb, rtol=1e-6)
    np.testing.assert_allclose(gray[..., 0], rgb @ [0.2125, 0.7154, 0.0721], rtol=1e-5)


def test_load_image_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.load_image(tmp_path / "missing.png")
    for content in (b"", b"no image"):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(CaffeError, match="bad.png"):
            io.load_image(tmp_path / "bad.png")


def test_oversample():
    images = [np.random.rand(6, 8, 2).astype(np.float32) for _ in range(3)]
    crops = io.oversample(images, (4, 5))
    assert crops.shape == (30, 4, 5, 2)
    for image, made in zip(images, crops.reshape(3, 10, 4, 5, 2)):
        places = [(0, 0), (0, 3), (2, 0), (2, 3), (1, 1)]
        for crop, mirrored, (y, x) in zip(made[:5], made[5:], places):
            np.testing.assert_array_equal(crop, image[y : y + 4, x : x + 5])
            np.testing.assert_array_equal(mirrored, crop[:, ::-1])
    with pytest.raises(CaffeError, match="do not fit"):
        io.oversample(images, (7, 2))
