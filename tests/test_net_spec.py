"""NetSpec makes the messages and the names that pycaffe's makes."""

import copy

import pytest

from caffe_bridge import schema, text_format
from caffe_bridge.pycaffe.net_spec import NetSpec, Top, assign_proto, param_name_dict, to_proto
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P


def net(text):
    message = schema.NetParameter()
    text_format.parse(text, message)
    return message


def image():
    return L.Input(shape={"dim": [1, 3, 8, 8]})


def test_names_in_place_and_parameters():
    n = NetSpec()
    n.data, n.label = L.DummyData(ntop=2, shape=[{"dim": [2, 3]}, {"dim": 2}], transform_param={"scale": 0.5})
    n.ip = L.InnerProduct(n.data, num_output=4, weight_filler={"type": "xavier"}, param=[{"lr_mult": 0}, {"name": "b"}])
    n.relu = L.ReLU(n.ip, in_place=True)
    n.pool = L.Pooling(n.relu, pool=P.Pooling.AVE, global_pooling=True)
    n["the/loss"] = L.SoftmaxWithLoss(n.pool, n.label, loss_weight=2, name="loss", include={"phase": schema.TRAIN})
    assert n.to_proto() == net("""
        layer { name: "data" type: "DummyData" top: "data" top: "label" transform_param { scale: 0.5 }
                dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 0 } param { name: "b" }
                inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
        layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
        layer { name: "pool" type: "Pooling" bottom: "ip" top: "pool"
                pooling_param { pool: AVE global_pooling: true } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "pool" bottom: "label" top: "the/loss" loss_weight: 2
                include { phase: TRAIN } }""")


def test_generated_names_count_by_type():
    data = image()
    first = L.Convolution(data, num_output=1, kernel_size=1)
    second = L.Convolution(L.ReLU(first, in_place=True), num_output=1, kernel_size=3)
    assert [(layer.name, *layer.bottom, *layer.top) for layer in to_proto(second, first).layer] == [
        ("Input1", "Input1"),
        ("Convolution1", "Input1", "Convolution1"),
        ("ReLU1", "Convolution1", "Convolution1"),
        ("Convolution2", "Convolution1", "Convolution2"),
    ]
    assert second.to_proto() == to_proto(second)


def test_unassigned_layers_come_along_and_shared_ones_once():
    n = NetSpec()
    hidden = L.TanH(image())
    n.a = L.Power(hidden, shift=1)
    n.sum = L.Eltwise(n.a, hidden, L.TanH(hidden), operation=P.Eltwise.SUM)
    message = n.to_proto()
    assert [layer.name for layer in message.layer] == ["Input1", "TanH1", "a", "TanH2", "sum"]
    assert list(message.layer[-1].bottom) == ["a", "TanH1", "TanH2"]


def test_layers_without_tops():
    n = NetSpec()
    n.data, n.other = L.DummyData(ntop=2, shape={"dim": 3})
    n.quiet = L.Silence(n.data, ntop=0)
    unnamed = L.Silence(n.other, ntop=0)
    n.tops["unnamed"] = unnamed
    assert [(layer.name, list(layer.top)) for layer in n.to_proto().layer][1:] == [("quiet", []), ("unnamed", [])]
    assert to_proto(unnamed).layer[-1].name == "Silence1"


def test_a_bottom_must_be_a_top():
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    assert all(isinstance(top, Top) for top in L.Silence(*pair, ntop=0).inputs)


def test_a_parameter_no_message_has():
    with pytest.raises(AttributeError, match="'kernal_size'"):
        L.Convolution(image(), kernal_size=3).to_proto()
    with pytest.raises(AttributeError, match="FillerParameter has no field 'kind'"):
        L.Convolution(image(), weight_filler={"kind": "xavier"}).to_proto()


def test_missing_top_is_a_key_error_and_an_attribute_error():
    n = NetSpec()
    n.data = image()
    with pytest.raises(KeyError, match="no top named 'x'"):
        n["x"]
    assert not hasattr(n, "x")
    assert copy.copy(n).data is n.data


def test_assign_proto():
    layer = schema.LayerParameter()
    assign_proto(layer, "top", "one")
    assign_proto(layer, "propagate_down", (True, False))
    assign_proto(layer, "reshape_param", {"shape": {"dim": [0, -1]}})
    assign_proto(layer, "param", [])
    assert list(layer.top) == ["one"] and list(layer.propagate_down) == [True, False]
    assert list(layer.reshape_param.shape.dim) == [0, -1] and not layer.param


def test_param_name_dict():
    names = param_name_dict()
    for type_name, name in {
        "InnerProduct": "inner_product",
        "LRN": "lrn",
        "Python": "python",
        "ROIWarping": "roi_warping",
    }.items():
        assert names[type_name] == name
    assert "SoftmaxWithLoss" not in names


def test_a_net_deeper_than_the_recursion_limit():
    top = image()
    for _ in range(3000):
        top = L.ReLU(top)
    assert len(top.to_proto().layer) == 3001
