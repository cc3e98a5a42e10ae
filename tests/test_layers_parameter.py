import pytest
import torch
from layer_cases import cases, check_case, make_layer

import caffe_bridge
from caffe_bridge import CaffeError, pycaffe


@pytest.mark.parametrize("name", cases("Parameter"))
def test_recorded(name):
    check_case(name)


def test_the_top_is_the_blob():
    layer = make_layer('type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }')
    assert layer.top_shapes([]) == [(2, 3)] and not layer.blobs[0].any()
    layer().sum().backward()
    assert (layer.blobs[0].grad == 1).all()


def test_learns_in_a_net():
    text = """layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 3 } } }
              layer { name: "r" type: "Reduction" bottom: "w" top: "r" loss_weight: 2 }"""
    net = caffe_bridge.Net(text, phase="TRAIN")
    net.loss(net()).backward()
    assert net.params["w"][0].grad.tolist() == [2, 2, 2]


def test_pycaffe_sees_what_the_blob_holds_now():
    text = """layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 2 } } }
              layer { name: "r" type: "Reduction" bottom: "w" top: "r" loss_weight: 1 }"""
    net = pycaffe.Net(text, pycaffe.TRAIN)
    for value in (1, 2):
        net.params["w"][0].data[...] = value
        assert net.forward()["r"] == 2 * value and net.blobs["w"].data.tolist() == [value, value]
    net.backward()
    assert net.params["w"][0].diff.tolist() == [1, 1]


@pytest.mark.parametrize("dims", ["dim: -1", "dim: 100000 dim: 100000"])
def test_refuses_impossible_shapes(dims):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Parameter" parameter_param {{ shape {{ {dims} }} }}')


def test_without_a_shape_it_is_a_scalar():
    assert make_layer('type: "Parameter"')().shape == torch.Size(())
