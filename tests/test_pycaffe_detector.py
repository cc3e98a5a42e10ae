"""pycaffe's Detector: windows with and without context."""

import cv2
import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import CaffeError

MODEL = """
name: "detector" input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE global_pooling: true } }
"""


@pytest.fixture
def files(tmp_path):
    model, weights = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel"
    model.write_text(MODEL)
    caffe.Net(str(model), caffe.TEST).save(str(weights))
    return str(model), str(weights)


@pytest.fixture
def picture(tmp_path):
    path = str(tmp_path / "picture.png")
    cv2.imwrite(path, np.random.randint(0, 256, (20, 30, 3)).astype(np.uint8))
    return path


def test_windows_are_cut_scaled_and_classified(files, picture):
    detector = caffe.Detector(*files, raw_scale=255, channel_swap=(2, 1, 0), mean=np.array([1.0, 2, 3]))
    windows = np.array([[0, 0, 8, 8], [3, 4, 19, 12], [5, 5, 9, 29]])
    found = detector.detect_windows(iter([(picture, windows), (picture, windows[:1])]))
    assert [f["filename"] for f in found] == [picture] * 4
    image = caffe.io.load_image(picture)
    for detection, window in zip(found, [*windows, windows[0]], strict=True):
        np.testing.assert_array_equal(detection["window"], window)
        cut = caffe.io.resize_image(image[window[0] : window[2], window[1] : window[3]], (8, 8))
        expected = cut.mean((0, 1))[::-1] * 255 - [1, 2, 3]
        np.testing.assert_allclose(detection["prediction"].ravel(), expected, rtol=1e-4, atol=1e-3)
    assert detector.detect_windows([(picture, [])]) == []


def test_context_surrounds_the_window(files):
    detector = caffe.Detector(*files, context_pad=2)
    image = np.zeros((40, 40, 3), np.float32)
    image[16:20, 16:20] = 1  # rows and columns 16 to 19, as the box (16, 16, 19, 19) counts them
    crop = detector.crop(image, np.array([16, 16, 19, 19]))
    # 4 of 8 pixels are context, so the cut covers rows 14 to 22 (exclusive 22) and is scaled 8 / 9.
    assert crop.shape == (8, 8, 3)
    np.testing.assert_allclose(crop, caffe.io.resize_image(image[14:22, 14:22], (8, 8)))


def test_context_outside_the_image_shows_the_mean(files):
    mean = np.random.uniform(1, 9, (3, 8, 8))
    detector = caffe.Detector(*files, context_pad=2, mean=mean, raw_scale=10, channel_swap=(2, 1, 0))
    image = np.full((30, 30, 3), 50, np.float32)
    crop = detector.crop(image, np.array([0, 10, 3, 13]))
    filler = mean[::-1].transpose(1, 2, 0) / 10
    # Rows -2 to 6 are wanted; the two missing ones become round(2 * 8 / 9) of the input's rows.
    np.testing.assert_allclose(crop[:2], filler[:2])
    np.testing.assert_allclose(crop[2:], 50)
    prepared = detector.transformer.preprocess("data", crop)
    np.testing.assert_allclose(prepared[:, :2], 0, atol=1e-5)


def test_context_may_be_configured_later(files):
    detector = caffe.Detector(*files)
    image = np.random.rand(20, 20, 3)
    np.testing.assert_array_equal(detector.crop(image, [2, 3, 9, 9]), image[2:9, 3:9])
    detector.configure_crop(1)
    assert detector.crop(image, [2, 3, 9, 9]).shape == (8, 8, 3)


def test_errors(files):
    detector = caffe.Detector(*files, context_pad=2)
    for pad in (4, -1):
        with pytest.raises(CaffeError, match="context_pad"):
            detector.configure_crop(pad)
    detector.configure_crop(0)
    with pytest.raises(CaffeError, match="no pixels"):
        detector.crop(np.zeros((5, 5, 3)), [7, 7, 9, 9])
    with pytest.raises(CaffeError, match="MATLAB"):
        detector.detect_selective_search(["a.jpg"])
