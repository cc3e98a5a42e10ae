"""The torch face: building, running, sharing, gradients, copying."""

import copy
import pickle

import numpy as np
import pytest
import torch

import caffe_bridge
from caffe_bridge import schema
from caffe_bridge.errors import CaffeError, LayerError, PrototxtError

SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.1 } } }
"""
TRAINING = (
    SMALL
    + """
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" loss_weight: 3 }
"""
)


def data(n=2, size=8):
    return torch.from_numpy(np.random.RandomState(0).randn(n, 3, size, size).astype("f"))


def by_hand(net, x):
    (conv_w, conv_b), (fc_w, fc_b) = net.params["conv"], net.params["fc"]
    x = torch.relu(torch.nn.functional.conv2d(x, conv_w, conv_b, padding=1))
    x = torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)
    return torch.nn.functional.linear(x.flatten(1), fc_w, fc_b)


def test_forward_is_the_layers_in_order():
    net = caffe_bridge.Net(SMALL)
    assert (net.name, net.phase, net.inputs, net.outputs) == ("small", "TEST", ["data"], ["fc"])
    out = net(data=data())
    assert list(out) == ["fc"]
    torch.testing.assert_close(out["fc"], by_hand(net, data()))


def test_intermediate_blobs_on_request_hold_their_last_value():
    out = caffe_bridge.Net(SMALL)(data=data(), blobs=["conv"])
    assert list(out) == ["fc", "conv"]
    assert (out["conv"] >= 0).all()


def test_blobs_nobody_reads_again_are_freed(monkeypatch):
    net = caffe_bridge.Net(SMALL)
    alive = []
    run = net._run
    monkeypatch.setattr(net, "_run", lambda node, values: (alive.append(sorted(values)), run(node, values)))
    net(data=data())
    assert alive == [["data"], ["conv"], ["conv"], ["pool"]]


def test_input_sizes_may_change_between_calls():
    convolution_only = SMALL[: SMALL.index('layer { name: "fc"')]
    net = caffe_bridge.Net(convolution_only)
    assert net(data=data(1, 8))["pool"].shape == (1, 4, 4, 4)
    assert net(data=data(3, 11))["pool"].shape == (3, 4, 5, 5)


def test_wrong_inputs_are_named():
    net = caffe_bridge.Net(SMALL)
    with pytest.raises(CaffeError, match=r"unknown input 'image'; input 'data' is missing \(the net takes data\)"):
        net(image=data())
    with pytest.raises(CaffeError, match="no blob is named 'nothing'"):
        net(data=data(), blobs=["nothing"])


def test_a_failing_layer_names_itself_its_line_and_its_bottoms(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(SMALL)
    net = caffe_bridge.Net(path)
    with pytest.raises(LayerError, match=r"net.prototxt:8: layer 'fc' \(InnerProduct\), bottoms \[\(2, 4, 5, 5\)\]: "):
        net(data=data(2, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layer { name: "a" type: "Convolutoin" top: "x" }', r"unknown layer type 'Convolutoin' \(did you mean"),
        ('layer { name: "a" type: "ReLU" bottom: "x" top: "y" }', "bottom 'x' is made by no earlier layer"),
        (SMALL + 'layer { name: "b" type: "ReLU" bottom: "fc" top: "pool" }', "top 'pool' is already made"),
        (SMALL + 'layer { name: "b" type: "ReLU" bottom: "fc" top: "b" param {} }', "1 param entries for 0 parameter"),
        (
            SMALL + 'layer { name: "b" type: "ReLU" bottom: "fc" top: "b" loss_weight: [1, 2] }',
            "loss_weight is given 2",
        ),
        (
            SMALL + 'layer { name: "b" type: "ReLU" bottom: "fc" bottom: "conv" top: "b" }',
            r"takes 1 bottom\(s\), 2 given",
        ),
        (
            SMALL + 'layer { name: "b" type: "ReLU" bottom: "fc" top: "b" propagate_down: [true, true] }',
            "propagate_down",
        ),
        (SMALL + 'layer { name: "b" type: "ReLU" bottom: "bool" top: "b" }', "did you mean 'pool'"),
    ],
)
def test_wrong_nets_are_refused(text, message):
    with pytest.raises(LayerError, match=message):
        caffe_bridge.Net(text)


def test_a_missing_file_is_named():
    with pytest.raises(PrototxtError, match="nowhere.prototxt: no such file"):
        caffe_bridge.Net("nowhere.prototxt")


def test_two_layers_of_one_name_are_refused_where_parameters_are_found_by_it():
    with pytest.raises(CaffeError, match="two layers are named 'conv'"):
        caffe_bridge.Net(SMALL + 'layer { name: "conv" type: "ReLU" bottom: "fc" top: "again" }')


def test_layers_without_parameters_may_share_a_name():
    net = caffe_bridge.Net(
        SMALL + 'layer { name: "relu" type: "Power" bottom: "fc" top: "off" power_param { shift: 9 } }'
    )
    out = net(data=data(), blobs=["fc"])
    assert torch.equal(out["off"], out["fc"] + 9)
    assert len(net.layers) == len(net.graph.nodes)
    assert torch.equal(pickle.loads(pickle.dumps(net))(data=data())["off"], out["off"])


def test_loss_is_weighted_and_reaches_every_parameter():
    net = caffe_bridge.Net(TRAINING, phase="TRAIN")
    label = torch.tensor([1.0, 4.0])
    out = net(data=data(), label=label)
    expected = torch.nn.functional.cross_entropy(by_hand(net, data()), label.long())
    torch.testing.assert_close(out["loss"], expected)
    torch.testing.assert_close(net.loss(out), 3 * expected)
    net.loss(out).backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    (3 * torch.nn.functional.cross_entropy(by_hand(net, data()), label.long())).backward()
    for gradient, parameter in zip(got, net.parameters()):
        torch.testing.assert_close(gradient, parameter.grad)


def test_lr_mult_zero_freezes_and_propagate_down_stops():
    frozen = TRAINING.replace('top: "conv"\n', 'top: "conv" param { lr_mult: 0 } param { lr_mult: 1 }\n', 1)
    net = caffe_bridge.Net(frozen, phase="TRAIN")
    assert [p.requires_grad for p in net.params["conv"]] == [False, True]
    stopped = TRAINING.replace('bottom: "pool" top: "fc"', 'bottom: "pool" top: "fc" propagate_down: false')
    net = caffe_bridge.Net(stopped, phase="TRAIN")
    net.loss(net(data=data(), label=torch.zeros(2))).backward()
    assert net.params["conv"][0].grad is None and net.params["fc"][0].grad.abs().sum() > 0


SHARED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "c" type: "InnerProduct" bottom: "a" top: "c" param { name: "w" %s } param { name: "b" }
        inner_product_param { num_output: %d weight_filler { type: "xavier" } } }
"""


def test_shared_parameters_are_one_object_and_gather_both_gradients():
    net = caffe_bridge.Net(SHARED % ("", 6), phase="TRAIN")
    assert net.params["a"][0] is net.params["c"][0]
    assert len(list(net.parameters())) == 2
    x = torch.randn(2, 6)
    net(data=x)["c"].sum().backward()
    weight = net.params["a"][0].detach().clone().requires_grad_()
    bias = net.params["a"][1].detach().clone()
    ((x @ weight.T + bias) @ weight.T + bias).sum().backward()
    torch.testing.assert_close(net.params["a"][0].grad, weight.grad)


def test_sharing_other_shapes_needs_permissive_and_equal_counts():
    with pytest.raises(LayerError, match=r"parameter 'w' of shape \(3, 6\) cannot share that of layer 'a'.*PERMISSIVE"):
        caffe_bridge.Net(SHARED % ("", 3))
    with pytest.raises(LayerError, match="cannot share"):
        caffe_bridge.Net(SHARED % ("share_mode: PERMISSIVE", 3))
    with pytest.raises(LayerError, match="another lr_mult in layer 'a'"):
        caffe_bridge.Net(SHARED.replace('{ name: "w" }', '{ name: "w" lr_mult: 2 }') % ("lr_mult: 1", 6))


def test_permissive_sharing_sees_the_owner_through_its_own_shape():
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } } }
    layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" }
            inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }
    layer { name: "c" type: "InnerProduct" bottom: "a" top: "c" param { name: "w" share_mode: PERMISSIVE }
            inner_product_param { num_output: 4 bias_term: false } }
    """
    net = caffe_bridge.Net(text)
    (owner,), (view,) = net.params["a"], net.params["c"]
    assert view.shape == (4, 3) and view.data_ptr() == owner.data_ptr()
    x = torch.randn(2, 4)
    torch.testing.assert_close(net(data=x)["c"], x @ owner.T @ owner.view(4, 3).T)


def through_pickle(net):
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("duplicate", [through_pickle, copy.deepcopy])
def test_copies_run_the_same(duplicate):
    net = caffe_bridge.Net(SMALL).double()
    net.params["conv"][1].requires_grad_(False)
    twin = duplicate(net)
    assert not twin.params["conv"][1].requires_grad
    x = data().double()
    assert torch.equal(net(data=x)["fc"], twin(data=x)["fc"])
    assert twin.params["fc"][0] is not net.params["fc"][0]


def test_state_dict_goes_through_torch_save(tmp_path):
    net, other = caffe_bridge.Net(SMALL), caffe_bridge.Net(SMALL)
    assert list(net.state_dict())[:2] == ["layers.conv.blobs.0", "layers.conv.blobs.1"]
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(net(data=data())["fc"], other(data=data())["fc"])


def test_layer_names_with_dots_and_module_attributes():
    text = SMALL.replace('name: "conv" type', 'name: "a.b%" type').replace('name: "relu"', 'name: "forward"')
    net = caffe_bridge.Net(text)
    assert "a.b%" in net.params and "layers.a%2Eb%25.blobs.0" in net.state_dict()
    assert net(data=data())["fc"].shape == (2, 5)


def test_foreign_messages_and_own_ones_are_definitions():
    from caffe_bridge import text_format

    message = schema.NetParameter()
    text_format.parse(SMALL, message)
    assert caffe_bridge.Net(message)(data=data())["fc"].shape == (2, 5)


def test_summary_counts_parameters_and_multiply_accumulates():
    text = caffe_bridge.Net(SMALL).summary()
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert rows["conv"][-2:] == ["112", f"{2 * 4 * 8 * 8 * 27:,}"]
    assert rows["fc"][-2:] == ["325", f"{2 * 5 * 64:,}"]
    assert rows["total"][1:] == ["437", f"{2 * 4 * 8 * 8 * 27 + 2 * 5 * 64:,}"]


def test_export_and_compile_give_the_same_numbers():
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = caffe_bridge.Net(SMALL)

        def forward(self, data):
            return self.net(data=data)["fc"]

    wrapped = Wrapped().eval()
    with torch.no_grad():
        expected = wrapped(data())
        exported = torch.export.export(wrapped, (data(),)).module()
        torch.testing.assert_close(exported(data()), expected)
        compiled = torch.compile(wrapped, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(data()), expected)


def test_stages_levels_and_phases_choose_layers():
    text = SMALL + 'layer { name: "extra" type: "ReLU" bottom: "fc" top: "extra" include { stage: "more" } }'
    assert caffe_bridge.Net(text).outputs == ["fc"]
    assert caffe_bridge.Net(text, stages=["more"]).outputs == ["extra"]


class Doubling(caffe_bridge.Layer):
    def forward(self, *bottoms):
        return bottoms[0] * 2


def test_a_users_layer_is_ten_lines(monkeypatch):
    from caffe_bridge import registry

    monkeypatch.setattr(registry, "_layers", dict(registry._layers))
    caffe_bridge.register("Doubling", source="mine")(Doubling)
    net = caffe_bridge.Net(SMALL + 'layer { name: "twice" type: "Doubling" bottom: "fc" top: "twice" }')
    out = net(data=data(), blobs=["fc"])
    torch.testing.assert_close(out["twice"], 2 * out["fc"])
