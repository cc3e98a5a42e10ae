import numpy as np
import pytest

from caffe_bridge import CaffeError, schema, text_format
from caffe_bridge.transformer import DataTransformer
from caffe_bridge.weights import write_blobproto


class Given:
    """A stream that deals what the test says and records the limits it was asked for."""

    def __init__(self, *values):
        self.values, self.limits = list(values), []

    def below(self, limit):
        self.limits.append(limit)
        return self.values.pop(0)


def transformer(text, phase="TRAIN"):
    param = schema.TransformationParameter()
    text_format.parse(text, param)
    return DataTransformer(param, phase)


def image(*shape, dtype=np.uint8):
    values = np.random.default_rng(sum(shape)).integers(0, 256, shape)
    return values.astype(dtype)


def by_hand(pixels, mean, scale, crop, top, left, mirrored):
    """One output value at a time, each operation rounded to float32."""
    channels, height, width = pixels.shape
    height, width = (crop, crop) if crop else (height, width)
    made = np.empty((channels, height, width), np.float32)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                value = np.float32(pixels[c, top + y, left + x])
                if mean is not None:
                    value = value - np.float32(mean[c, top + y, left + x])
                made[c, y, width - 1 - x if mirrored else x] = value * np.float32(scale)
    return made


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("mirrored", [0, 1])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 1), (4, 6)])
def test_training_crops_and_flips_where_it_draws(top, left, mirrored, dtype, tmp_path):
    pixels = image(3, 9, 11, dtype=dtype)
    mean = np.random.default_rng(1).normal(110, 30, (1, 3, 9, 11)).astype(np.float32)
    write_blobproto(tmp_path / "mean", mean)
    made = transformer(f'crop_size: 5 mirror: true scale: 0.017 mean_file: "{tmp_path}/mean"')
    made.stream = Given(mirrored, top, left)
    np.testing.assert_array_equal(made(pixels), by_hand(pixels, mean[0], 0.017, 5, top, left, mirrored))
    assert made.stream.limits == [2, 5, 7]


@pytest.mark.parametrize("values", ["mean_value: 99.5", "mean_value: 104 mean_value: 117 mean_value: 123"])
@pytest.mark.parametrize(("crop", "top", "left"), [(0, 0, 0), (4, 2, 3), (9, 0, 1)])
def test_testing_takes_the_middle(values, crop, top, left):
    pixels = image(3, 9, 11)
    numbers = [float(number) for number in values.split()[1::2]]
    mean = np.broadcast_to(np.array(numbers, np.float32)[:, None, None], pixels.shape)
    made = transformer(f"crop_size: {crop} scale: 0.5 {values}", "TEST")
    assert made.stream is None and made.shape(pixels.shape) == made(pixels).shape
    np.testing.assert_array_equal(made(pixels), by_hand(pixels, mean, 0.5, crop, top, left, False))


def test_testing_flips_too():
    made = transformer("mirror: true", "TEST")
    pixels = image(1, 2, 3)
    made.stream = Given(1, 0)
    np.testing.assert_array_equal(made(pixels), pixels[:, :, ::-1])
    np.testing.assert_array_equal(made(pixels), pixels)


def test_draws_cover_every_crop_and_flip_half():
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    made = transformer("crop_size: 3 mirror: true")
    corners, flips = np.zeros((2, 4)), 0
    for _ in range(2000):
        crop = made(pixels)[0]
        flipped = crop[0, 0] > crop[0, 1]
        first = int(crop[0, 2] if flipped else crop[0, 0])
        corners[first // 6, first % 6] += 1
        flips += flipped
    assert np.abs(corners - 250).max() < 75 and abs(flips - 1000) < 112  # five standard deviations


def test_input_is_left_alone_and_state_continues():
    pixels = image(3, 9, 9, dtype=np.float32)
    before = pixels.copy()
    first, second = transformer("crop_size: 2 mirror: true mean_value: 3"), transformer("crop_size: 2 mirror: true")
    first(pixels)
    np.testing.assert_array_equal(pixels, before)
    second.set_state(first.state())
    for _ in range(5):
        np.testing.assert_array_equal(first(pixels), second(pixels) - np.float32(3))


def test_force_color_and_gray():
    assert [transformer(text).color for text in ("", "force_color: true", "force_gray: true")] == [None, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mean_file: "m" mean_value: 1', "exclude each other"),
        ("force_color: true force_gray: true", "exclude each other"),
        ('mean_file: "absent.binaryproto"', "absent.binaryproto"),
        ('mean_file: ""', "mean_file"),
    ],
)
def test_parameters_that_are_refused(text, message):
    with pytest.raises(CaffeError, match=message):
        transformer(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("crop_size: 6", "5x9, smaller than crop_size 6"), ("mean_value: 1 mean_value: 2", "2 mean_values for 3")],
)
def test_images_that_do_not_fit(text, message):
    with pytest.raises(CaffeError, match=message):
        transformer(text)(image(3, 5, 9))


def test_mean_of_other_images(tmp_path):
    write_blobproto(tmp_path / "mean", np.zeros((1, 3, 5, 8), np.float32))
    with pytest.raises(CaffeError, match=r"\(3, 5, 9\), the mean file's \(3, 5, 8\)"):
        transformer(f'mean_file: "{tmp_path}/mean"')(image(3, 5, 9))
    (tmp_path / "flat").write_bytes(schema.BlobProto(data=[1, 2], shape={"dim": [2]}).SerializeToString())
    with pytest.raises(CaffeError, match=r"flat: has shape \(2,\)"):
        transformer(f'mean_file: "{tmp_path}/flat"')
