import math

import cv2
import numpy as np
import pytest
from data_layers import check_resuming, run, write_images
from layer_cases import make_layer

from caffe_bridge import CaffeError
from caffe_bridge.weights import write_blobproto

SIZES = [(40, 50), (33, 61)]
# class, overlap, x1, y1, x2, y2 of the windows of each image
WINDOWS = [
    [(7, 0.9, 5, 6, 30, 20), (3, 0.5, 0, 0, 9, 39), (0, 0.49, 10, 10, 40, 30), (2, 0.1, 44, 2, 49, 8)],
    [(1, 1.0, 0, 5, 60, 32), (4, 0.3, 20, 0, 33, 32), (0, 0.0, 50, 20, 60, 25)],
]


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, *SIZES)
    lines = []
    for i, ((height, width), windows) in enumerate(zip(SIZES, WINDOWS)):
        lines += [f"# {i}", f"{i}.png", "3", str(height), str(width), str(len(windows))]
        lines += [" ".join(map(str, window)) for window in windows]
    (tmp_path / "windows").write_text("\n".join(lines) + "\n")
    return tmp_path


def window_data(folder, batch_size=4, more="", transform="crop_size: 16"):
    return make_layer(
        f'type: "WindowData" window_data_param {{ source: "{folder}/windows" root_folder: "{folder}/" '
        f"batch_size: {batch_size} {more} }} transform_param {{ {transform} }}"
    )


class Given:
    """Random numbers as the test has them; `limits` is what they were drawn from."""

    def __init__(self, values):
        self.values, self.limits = list(values), []

    def below(self, limit):
        self.limits.append(limit)
        return self.values.pop(0)


def nearest(value):
    return math.floor(value + 0.5) if value >= 0 else -math.floor(-value + 0.5)


def by_hand(image, box, size, pad, square, mirrored, mean, scale):
    """One window, pixel by pixel: the region grows about its middle until `pad` output pixels surround it."""
    x1, y1, x2, y2 = box
    out = np.zeros((3, size, size), np.float32)
    rows = columns = size
    above = before = behind = 0
    if pad or square:
        grow = size / (size - 2 * pad)
        tall, wide = (y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2
        middle_x, middle_y = x1 + wide, y1 + tall
        if square:
            tall = wide = max(tall, wide)
        x1, x2 = nearest(middle_x - wide * grow), nearest(middle_x + wide * grow)
        y1, y2 = nearest(middle_y - tall * grow), nearest(middle_y + tall * grow)
        whole_x, whole_y = x2 - x1 + 1, y2 - y1 + 1
        before, behind = max(0, -x1) * size / whole_x, max(0, x2 + 1 - image.shape[1]) * size / whole_x
        above = nearest(max(0, -y1) * size / whole_y)
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, image.shape[1] - 1), min(y2, image.shape[0] - 1)
        rows, columns = nearest((y2 - y1 + 1) * size / whole_y), nearest((x2 - x1 + 1) * size / whole_x)
    left = nearest(behind if mirrored else before)
    rows, columns = min(rows, size - above), min(columns, size - left)
    warped = cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], (columns, rows))
    for y in range(rows):
        for x in range(columns):
            for c in range(3):
                value = np.float32(warped[y, columns - 1 - x if mirrored else x, c])
                at = (c, above + y, left + x)
                out[at] = (value - np.float32(mean[at])) * np.float32(scale)
    return out


@pytest.mark.parametrize("mean", ["", "mean_value: 100", "mean_value: 104 mean_value: 117 mean_value: 123", "file"])
@pytest.mark.parametrize(("pad", "mode"), [(0, "warp"), (3, "warp"), (0, "square"), (5, "square")])
@pytest.mark.parametrize("cached", ["false", "true"])
def test_windows_that_it_draws(folder, pad, mode, mean, cached):
    size = 16
    means = np.zeros((3, size, size))
    if mean == "file":
        whole = np.random.default_rng(2).normal(110, 20, (1, 3, 24, 21)).astype(np.float32)
        write_blobproto(folder / "mean", whole)
        means, mean = whole[0, :, 2:18, 2:18], f'mean_file: "{folder}/mean"'
    elif mean:
        means = means + np.array([float(value) for value in mean.split()[1::2]])[:, None, None]
    more = f'fg_fraction: 0.4 context_pad: {pad} crop_mode: "{mode}" scale: 0.25 cache_images: {cached}'
    layer = window_data(folder, 8, more, f"crop_size: {size} mirror: true {mean}")
    assert layer.top_shapes([]) == [(8, 3, 16, 16), (8,)]
    drawn = [(0, 0), (1, 1), (2, 0), (3, 1), (3, 0), (2, 1), (1, 0), (0, 1)]  # 5 of background, then 3 of foreground
    drawn[5:] = [(0, 1), (1, 0), (2, 1)]
    layer.stream = Given(number for pair in drawn for number in pair)
    data, labels = layer()
    assert layer.stream.limits == [4, 2] * 5 + [3, 2] * 3
    assert labels.tolist() == [0] * 5 + [7, 3, 1]
    background = [(0, WINDOWS[0][2]), (0, WINDOWS[0][3]), (1, WINDOWS[1][1]), (1, WINDOWS[1][2])]
    foreground = [(0, WINDOWS[0][0]), (0, WINDOWS[0][1]), (1, WINDOWS[1][0])]
    for i, (index, mirrored) in enumerate(drawn):
        of, window = (background if i < 5 else foreground)[index]
        image = cv2.imread(f"{folder}/{of}.png")
        wanted = by_hand(image, window[2:], size, pad, mode == "square", mirrored, means, 0.25)
        np.testing.assert_array_equal(data[i], wanted)


def test_context_reaches_beyond_the_image(folder):
    layer = window_data(folder, 2, "fg_fraction: 0.5 context_pad: 4", "crop_size: 16 mean_value: 500")
    layer.stream = Given([1, 1])
    background, foreground = layer()[0]
    assert not background[:, :, -4:].any() and bool((background[:, 4:, :8] < 0).all())
    assert not foreground[:, :4].any() and not foreground[:, :, :4].any() and not foreground[:, 12:].any()


def test_draws_cover_all_windows(folder):
    layer = window_data(folder, 40, "fg_fraction: 0.25 cache_images: true", "crop_size: 2 mirror: true")
    counts = np.zeros(8)
    for _, labels in run(layer, 50):
        assert not labels[:30].any() and labels[30:].all()
        counts += np.bincount(labels.int(), minlength=8)
    assert counts[0] == 1500 and counts[[1, 3, 7]].sum() == 500
    assert np.abs(counts[[1, 3, 7]] - 500 / 3).max() < 53  # five standard deviations


def test_resuming(folder):
    layers = [window_data(folder, transform="crop_size: 8 mirror: true") for _ in range(2)]
    run(layers[0], 2)
    check_resuming(*layers)


def test_thresholds_leave_a_gap(folder):
    layer = window_data(folder, more="fg_threshold: 0.9 bg_threshold: 0.3")
    assert [window.label for window in layer.file.foreground] == [7, 1]
    assert len(layer.file.background) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# 0 0.png 3 40", "image 0: not enough values"),
        ("% 0 0.png 3 40 50 0", "'%' where '# INDEX' should be"),
        ("# 1 0.png 3 40 50 0", "image index 1 where 0"),
        ("# 0 0.png 3 40 50 2 1 0.9 0 0 5 5", "not enough values"),
        ("# 0 0.png 3 40 50 1 1 x 0 0 5 5", "could not convert"),
        ("# 0 0.png 3 40 50 1 0 0.9 0 0 5 5", "a foreground window has class 0"),
        ("# 0 0.png 3 40 50 1 1 0.9 0 0 5 5", "holds no background window"),
        ("# 0 0.png 3 40 50 1 1 0.1 0 0 5 5", "holds no foreground window"),
        ("# 0 0.png 1 40 50 2 1 0.1 0 0 5 5 1 0.9 0 0 5 5", "1 channels"),
        ("# 0 0.png 3 40 50 999999999", "not enough values"),
        ("# 0 0.png 3 40 50 999999999999", "does not fit in 32 bits"),
        ("# 0 0.png 3 40 50 1 1 0.9 0 0 5 9999999999", "does not fit in 32 bits"),
    ],
)
def test_broken_window_files(folder, text, message):
    (folder / "windows").write_text(text)
    with pytest.raises(CaffeError, match=message):
        window_data(folder)


@pytest.mark.parametrize("box", ["0 0 50 5", "-1 0 5 5", "5 5 4 4", "99 99 100 100", "20 20 9 9"])
@pytest.mark.parametrize("more", ["", "context_pad: 3"])
def test_windows_outside_the_image(folder, box, more):
    (folder / "windows").write_text(f"# 0 0.png 3 40 50 2 1 0.9 {box} 1 0 {box}")
    layer = window_data(folder, more=more)
    if more and box not in ("99 99 100 100", "20 20 9 9"):
        assert layer()[0].shape == (4, 3, 16, 16)  # grown and cut to the image, as in Caffe
    else:
        with pytest.raises(CaffeError, match=r"0.png: window \(.*\) (does not lie in the image|is empty)"):
            layer()


def test_refusals(folder):
    for text, transform, message in [
        ("", "", "crop_size must be at least 1"),
        ("context_pad: 8", "crop_size: 16", "leaves nothing"),
        ("fg_fraction: 1.5", "crop_size: 16", "fg_fraction"),
        ("", "crop_size: 16 mean_value: 1 mean_value: 2", "2 mean_values"),
        ("", 'crop_size: 16 mean_file: "absent"', "absent"),
    ]:
        with pytest.raises(CaffeError, match=message):
            window_data(folder, 4, text, transform)
    write_blobproto(folder / "mean", np.zeros((1, 3, 12, 20)))
    with pytest.raises(CaffeError, match=r"mean_file .* \(3, 12, 20\)"):
        window_data(folder, transform=f'crop_size: 16 mean_file: "{folder}/mean"')
    (folder / "1.png").unlink()
    with pytest.raises(CaffeError, match="1.png: No such file"):
        window_data(folder, more="cache_images: true")
    with pytest.raises(CaffeError, match="1.png: No such file"):
        run(window_data(folder), 20)
