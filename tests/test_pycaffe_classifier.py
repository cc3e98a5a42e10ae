"""pycaffe's Classifier: scaling, crops, preparation and averaging."""

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import CaffeError

MODEL = """
name: "classifier" input: "data" input_shape { dim: 4 dim: 3 dim: 6 dim: 6 }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.05 } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def files(tmp_path):
    model, weights = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel"
    model.write_text(MODEL)
    net = caffe.Net(str(model), caffe.TEST)
    net.save(str(weights))
    return str(model), str(weights)


def softmax(net, prepared):
    scores = prepared.reshape(len(prepared), -1) @ net.params["fc"][0].data.T + net.params["fc"][1].data
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def images(count, height=9, width=7):
    return [np.random.rand(height, width, 3).astype(np.float32) for _ in range(count)]


def test_oversampled_predictions_are_means_over_ten_crops(files):
    classifier = caffe.Classifier(
        *files, image_dims=(8, 9), mean=np.array([1.0, 2, 3]), raw_scale=10, channel_swap=(2, 1, 0), input_scale=0.5
    )
    given = images(3)
    made = classifier.predict(given)
    scaled = [caffe.io.resize_image(image, (8, 9)) for image in given]
    crops = caffe.io.oversample(scaled, (6, 6)).transpose(0, 3, 1, 2)[:, ::-1]
    prepared = (crops * 10 - np.array([1.0, 2, 3])[:, None, None]) * 0.5
    assert made.shape == (3, 5)
    np.testing.assert_allclose(made, softmax(classifier, prepared).reshape(3, 10, 5).mean(1), rtol=1e-4)


def test_centre_crop(files):
    classifier = caffe.Classifier(*files, image_dims=(9, 8))
    given = images(6)
    crops = np.stack([caffe.io.resize_image(image, (9, 8))[1:7, 1:7] for image in given]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(classifier.predict(given, oversample=False), softmax(classifier, crops), rtol=1e-4)


def test_images_are_scaled_to_the_input_by_default(files):
    classifier = caffe.Classifier(*files)
    assert tuple(classifier.image_dims) == (6, 6)
    given = images(1)
    crop = caffe.io.resize_image(given[0], (6, 6)).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(classifier.predict(given, oversample=False), softmax(classifier, crop), rtol=1e-4)


def test_a_classifier_is_a_net_in_test_phase(files):
    classifier = caffe.Classifier(*files)
    assert isinstance(classifier, caffe.Net) and classifier.torch_net.phase == "TEST"
    with pytest.raises(CaffeError, match="no images"):
        classifier.predict([])
