"""Plans for inference against the layers they stand for."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import caffe_bridge
from caffe_bridge import LayerError
from caffe_bridge.inference_plan import InferencePlans, available
from caffe_bridge.layers import functional
from caffe_bridge.layers.base import Layer

pytestmark = pytest.mark.skipif(not available(), reason="no compiled kernels, or no oneDNN: there are no plans")

CONV = 'layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" convolution_param { num_output: %d %s } }\n'
PAD = "kernel_size: 3 pad: 1"


def conv(name, bottom, top=None, outputs=6, fields=PAD):
    return CONV % (name, bottom, top or name, outputs, fields)


def layer(type_, bottoms, top, fields="", name=None):
    bottoms = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name or top + type_}" type: "{type_}" {bottoms} top: "{top}" {fields} }}\n'


def net_of(body, shape=(2, 6, 9, 8)):
    """A net with input "x", with weights and statistics of every kind."""
    dims = " ".join(f"dim: {d}" for d in shape)
    net = caffe_bridge.Net(f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n{body}')
    spread(net)
    return net


def spread(net):
    random = torch.Generator().manual_seed(1)
    for node in net.graph.nodes:
        for i, blob in enumerate(node.layer.blobs):
            fan_in = blob[0].numel() if blob.ndim > 1 else 1
            values = torch.randn(blob.shape, generator=random) / fan_in**0.5
            positive = node.type == "BatchNorm" and i > 0
            blob.detach().copy_(values.abs() + 0.3 if positive else values)


def images(net):
    (name,) = net.inputs
    return torch.randn(net.graph.shapes[name], generator=torch.Generator().manual_seed(2))


def compare(net, x=None, blobs=(), tolerance=1e-5):
    """The net's blobs by plan, after comparing them with the layers' own."""
    x = images(net) if x is None else x
    before = x.clone()
    with torch.no_grad():
        net.optimize = False
        expected = net(**{net.inputs[0]: x}, blobs=blobs)
        net.optimize = True
        got = net(**{net.inputs[0]: x}, blobs=blobs)
        again = net(**{net.inputs[0]: x}, blobs=blobs)
    assert torch.equal(x.nan_to_num(7), before.nan_to_num(7))
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].is_contiguous() and got[name].dtype == value.dtype
        scale = max(1.0, float(value.nan_to_num(0, 0, 0).abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(got[name], value, rtol=0, atol=tolerance * scale, equal_nan=True)
        assert torch.equal(again[name].nan_to_num(7), got[name].nan_to_num(7))
    return got


def steps(net, blobs=()):
    """Which layers run together for these blobs, by name."""
    with torch.no_grad():
        net(**{net.inputs[0]: images(net)}, blobs=blobs)
    plan = net._plans._plans[frozenset((*net.outputs, *blobs))]
    return ["+".join(node.name for node in step.nodes) for step in plan.steps]


NORMALIZED = layer("BatchNorm", "a", "a", name="bn") + layer("Scale", "a", "a", "scale_param { bias_term: true }", "sc")
SUM = "eltwise_param { operation: SUM }"
SHORTCUT = (
    conv("a", "x") + NORMALIZED + layer("ReLU", "a", "a", name="r")
    + conv("b", "a") + layer("Eltwise", "a b", "c", SUM, "s") + layer("ReLU", "c", "c", name="q")
)  # fmt: skip
CASES = {
    "convolution alone": (conv("a", "x"), ["a"]),
    "no bias": (conv("a", "x", fields=PAD + " bias_term: false") + NORMALIZED, ["a+bn+sc"]),
    "normalized in place": (conv("a", "x") + NORMALIZED + layer("ReLU", "a", "a", name="r"), ["a+bn+sc+r"]),
    "blobs of their own": (
        conv("a", "x") + layer("BatchNorm", "a", "b", name="bn") + layer("Scale", "b", "c", name="sc")
        + layer("ReLU", "c", "d", name="r"), ["a+bn+sc+r"],
    ),
    "bias": (conv("a", "x") + layer("Bias", "a", "b", name="b") + layer("Scale", "b", "c", name="c"), ["a+b+c"]),
    "leaky": (conv("a", "x") + layer("ReLU", "a", "a", "relu_param { negative_slope: 0.1 }", "r"), ["a+r"]),
    "relu6": (conv("a", "x") + layer("ReLU6", "a", "a", name="r"), ["a+r"]),
    "shortcut": (SHORTCUT, ["a+bn+sc+r", "b+s+q"]),
    "sum of the later": (conv("a", "x") + conv("b", "x") + layer("Eltwise", "a b", "c", SUM, "s"), ["a", "b+s"]),
    "sum with the image": (conv("a", "x") + layer("Eltwise", "x a", "c", SUM, "s"), ["a+s"]),
    "sum with itself": (conv("a", "x") + layer("Eltwise", "a a", "c", SUM, "s"), ["a", "s"]),
    "difference": (
        conv("a", "x") + layer("Eltwise", "x a", "c", "eltwise_param { coeff: 1 coeff: -1 }", "s"), ["a", "s"],
    ),
    "product": (conv("a", "x") + layer("Eltwise", "x a", "c", "eltwise_param { operation: PROD }", "s"), ["a", "s"]),
    "read twice": (conv("a", "x") + layer("ReLU", "a", "b", name="r") + layer("TanH", "a", "c", name="t"),
                   ["a", "r", "t"]),
    "normalization first": (layer("BatchNorm", "x", "a", name="n") + NORMALIZED + layer("ReLU", "a", "a", name="r")
                            + conv("b", "a"), ["n+bn+sc+r", "b"]),
    "batch statistics": (
        conv("a", "x") + layer("BatchNorm", "a", "b", "batch_norm_param { use_global_stats: false }", "bn"),
        ["a", "bn"],
    ),
    "two factors": (conv("a", "x") + layer("Scale", "a x", "b", "scale_param { axis: 0 }", "s"), ["a", "s"]),
    "factor per row": (
        conv("a", "x") + layer("Scale", "a", "b", "scale_param { axis: 2 }", "s"), ["a", "s"],
    ),
    "a factor for all": (conv("a", "x") + layer("Scale", "a", "b", "scale_param { axis: 0 num_axes: 0 }", "s"),
                         ["a", "s"]),
    "groups": (
        conv("a", "x", outputs=4, fields=PAD + " group: 2") + conv("b", "a", outputs=4, fields=PAD + " group: 4"),
        ["a", "b"],
    ),
    "dilated": (conv("a", "x", fields="kernel_size: 3 dilation: 2 pad_h: 1 pad_w: 3 stride: 2"), ["a"]),
    "overhang": (conv("a", "x", fields="kernel_h: 10 kernel_w: 3 stride: 3") + layer("ReLU", "a", "a", name="r"),
                 ["a+r"]),
    "fully connected": (
        conv("a", "x") + layer("InnerProduct", "a", "b", "inner_product_param { num_output: 5 }", "f")
        + layer("ReLU", "b", "b", name="r") + layer("Dropout", "b", "b", name="d")
        + layer("Softmax", "b", "c", name="m"),
        ["a", "f+r", "d", "m"],
    ),
    "pooling and normalisation": (
        conv("a", "x") + layer("ReLU", "a", "a", name="r")
        + layer("Pooling", "a", "b", "pooling_param { kernel_size: 3 stride: 2 }", "p")
        + layer("LRN", "b", "c", "lrn_param { local_size: 3 alpha: 2 }", "l")
        + layer("Pooling", "c", "d", "pooling_param { kernel_size: 2 stride: 3 }", "q")
        + layer("Pooling", "c", "e", "pooling_param { pool: AVE kernel_size: 3 pad: 1 }", "v")
        + layer("Pooling", "c", "f", "pooling_param { pool: AVE global_pooling: true }", "g"),
        ["a+r", "p", "l", "q", "v", "g"],
    ),
    "branches": (
        conv("a", "x") + conv("b", "x", outputs=3) + layer("Concat", "a b", "c", name="j")
        + layer("ReLU", "c", "c", name="r") + conv("d", "c")
        + layer("Slice", "d", "e", 'top: "f"', "s") + layer("Eltwise", "e f", "g", SUM, "h"),
        ["a", "b", "j", "r", "d", "s", "h"],
    ),
    "split": (
        conv("a", "x") + layer("Split", "a", "b", 'top: "c"', "s") + layer("ReLU", "b", "b", name="r")
        + conv("d", "c") + layer("Eltwise", "c d", "e", SUM, "h"), ["a", "s", "r", "d+h"],
    ),
    "other arrangements": (
        conv("a", "x", outputs=4) + layer("Reshape", "a", "b", "reshape_param { shape { dim: 0 dim: -1 dim: 4 } }", "s")
        + conv("c", "a") + layer("Permute", "c", "d", "permute_param { order: 0 order: 2 order: 3 order: 1 }", "p")
        + layer("Flatten", "d", "e", name="f") + layer("Softmax", "c", "g", name="m"), ["a", "s", "c", "p", "f", "m"],
    ),
    "upwards": (
        layer("Deconvolution", "x", "a", "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 }", "u")
        + layer("ReLU", "a", "a", name="r") + conv("b", "a"), ["u+r", "b"],
    ),
    "one axis": (layer("Flatten", "x", "a", name="f") + conv("c", "a", fields="axis: 0 kernel_size: 1"), ["f", "c"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_layers_that_run_together(case):
    body, expected = CASES[case]
    net = net_of(body)
    compare(net)
    assert steps(net) == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", [(1, 6, 9, 8), (3, 6, 12, 17)])
def test_other_sizes(case, shape):
    if case == "one axis":
        pytest.skip("takes one size")
    net = net_of(CASES[case][0])
    fixed = case in ("fully connected", "factor per row") and shape[2:] != (9, 8)
    x = torch.randn(shape)
    if not fixed:
        return compare(net, x)
    with torch.no_grad(), pytest.raises(LayerError, match=r"layer '.' \(.*\), bottoms"):
        net(x=x)


@pytest.mark.parametrize("case", CASES)
def test_every_blob_can_be_asked_for(case):
    net = net_of(CASES[case][0])
    blobs = [name for name in net.graph.shapes if name not in net.inputs]
    compare(net, blobs=blobs)
    for blob in blobs:
        compare(net, blobs=[blob])


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v2", "resnet50", "densenet121"])
def test_nets_of_the_zoo(name, request):
    net = caffe_bridge.Net(request.config.rootpath / "prototxt" / name / "deploy.prototxt")
    for node in net.graph.nodes:
        for i, blob in enumerate(node.layer.blobs):
            blob.detach().normal_(0, (2 / max(1, blob[0].numel())) ** 0.5) if blob.ndim > 1 else blob.detach().fill_(
                {"Scale": (0.5, 0.1), "BatchNorm": (0.1, 1.0, 1.0)}.get(node.type, (0.1, 0.1))[i]
            )
    (blob,) = net.inputs
    last = [node.bottoms[0] for node in net.graph.nodes if node.type == "Softmax"] or net.outputs
    compare(net, torch.randn(1, *net.graph.shapes[blob][1:]), blobs=last)


def test_images_without_pixels_and_without_images():
    net = net_of(SHORTCUT)
    assert compare(net, torch.zeros(0, 6, 9, 8))["c"].shape == (0, 6, 9, 8)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38])
@pytest.mark.parametrize("case", ["normalized in place", "relu6", "shortcut", "leaky", "pooling and normalisation"])
def test_what_is_no_number_stays_none(case, value):
    net = net_of(CASES[case][0])
    x = images(net)
    x[0, 2, 3, 4] = value
    compare(net, x)


def test_one_channel_and_single_pixels():
    body = conv("a", "x", outputs=1) + layer("ReLU", "a", "a", name="r") + conv("b", "a", fields="kernel_size: 1")
    for shape in ((2, 1, 5, 4), (3, 1, 1, 1), (1, 1, 1, 7)):
        compare(net_of(body, shape))


CHANGES = {
    "in place": lambda blob: blob.mul_(1.5),
    "data": lambda blob: blob.data.mul_(1.5),
    "numpy": lambda blob: np.copyto(blob.detach().numpy(), blob.detach().numpy() * 1.5),
    "order of channels": lambda blob: np.copyto(blob.detach().numpy(), blob.detach().numpy()[::-1].copy()),
    "one value": lambda blob: blob.data.view(-1)[-1:].add_(1),
    "another tensor": lambda blob: setattr(blob, "data", blob.data * 1.5),
}


@pytest.mark.parametrize("layer_name", ["a", "bn", "sc"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_parameters_count_at_once(change, layer_name):
    net = net_of(SHORTCUT)
    first = compare(net)["c"]
    for blob in net.params[layer_name][-2:]:
        with torch.no_grad():
            CHANGES[change](blob)
    assert not torch.equal(compare(net)["c"], first)


def test_weights_are_kept_while_they_stay():
    net = net_of(SHORTCUT)
    compare(net)
    kept = net._plans._weights._kept
    assert set(kept) == {("a", "bn", "sc"), ("b",)}
    compare(net, blobs=["b"])
    net.load_state_dict(copy.deepcopy(net.state_dict()))
    compare(net, torch.randn(1, 6, 20, 30))
    assert net._plans._weights._kept is kept


def test_shared_parameters():
    named = PAD + ' } param { name: "w" } param { name: "v"'
    net = net_of(conv("a", "x", fields=named) + layer("ReLU", "a", "a", name="r") + conv("b", "a", fields=named))
    compare(net)


def test_results_are_the_callers():
    net = net_of(SHORTCUT)
    x = images(net)
    with torch.no_grad():
        first = net(x=x, blobs=["a", "b", "x"])
        kept = {name: value.clone() for name, value in first.items()}
        net(x=x + 1, blobs=["a", "b"])
        assert all(torch.equal(first[name], value) for name, value in kept.items())
        first["a"].zero_()
        assert torch.equal(net(x=x)["c"], kept["c"])


def test_views_of_what_a_sum_could_overwrite():
    body = (
        conv("a", "x") + layer("Flatten", "a", "f", name="f") + conv("b", "a") + layer("Eltwise", "a b", "c", SUM, "s")
    )
    net = net_of(body + layer("TanH", "f", "g", name="t"))
    compare(net)
    compare(net, blobs=["f"])


def test_net_is_as_before():
    net = net_of(SHORTCUT)
    compare(net)
    assert sorted(net.state_dict()) == sorted(f"layers.{n}.blobs.{i}" for n, c in
                                              {"a": 2, "b": 2, "bn": 3, "sc": 2}.items() for i in range(c))  # fmt: skip
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(compare(other)["c"], compare(net)["c"])


def layer_by_layer(net, monkeypatch):
    def run(*_):
        raise AssertionError("a plan was followed")

    monkeypatch.setattr(InferencePlans, "run", run)
    (top,) = net(x=images(net)).values()
    return top


def test_gradients_are_the_layers(monkeypatch):
    layer_by_layer(net_of(SHORTCUT), monkeypatch).sum().backward()


def test_switched_off(monkeypatch):
    net = net_of(SHORTCUT)
    net.optimize = False
    with torch.no_grad():
        layer_by_layer(net, monkeypatch)


def test_where_layers_run_one_by_one(monkeypatch):
    net = net_of(SHORTCUT)
    with torch.no_grad():
        with functional.pure_torch():
            layer_by_layer(net, monkeypatch)
        with torch.autocast("cpu", torch.bfloat16):
            layer_by_layer(net, monkeypatch)
        with torch.backends.mkldnn.flags(enabled=False):
            layer_by_layer(net, monkeypatch)
        layer_by_layer(copy.deepcopy(net).double(), monkeypatch)
        training = caffe_bridge.Net(net.definition.param, phase="TRAIN")
        layer_by_layer(training, monkeypatch)


def test_hooks_see_their_layers(monkeypatch):
    net = net_of(SHORTCUT)
    seen = []
    net.layers.bn.register_forward_hook(lambda layer, bottoms, top: seen.append(top.shape))
    with torch.no_grad():
        layer_by_layer(net, monkeypatch)
    assert len(seen) == 1


def test_forward_mode_derivatives():
    net = net_of(conv("a", "x"))
    x = images(net)
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda x: net(x=x)["a"], (x,), (torch.ones_like(x),))
        mapped = torch.vmap(lambda x: net(x=x[None])["a"])(x)
        assert torch.allclose(mapped[:, 0], net(x=x)["a"], atol=1e-5)
        bias = net(x=torch.zeros_like(x))["a"]
        assert torch.allclose(tangent, net(x=torch.ones_like(x))["a"] - bias, atol=1e-5)


def test_inference_mode_and_no_grad_share_weights():
    net = net_of(SHORTCUT)
    with torch.inference_mode():
        first = net(x=images(net))["c"]
    with torch.no_grad():
        assert torch.equal(net(x=images(net))["c"], first)


def test_users_own_layers(monkeypatch):
    from caffe_bridge import registry

    class Odd(Layer):
        def forward(self, bottom):
            return bottom.view(-1).add(1).view(bottom.shape)

    monkeypatch.setitem(registry._layers, "ReLU", Odd)
    net = net_of(conv("a", "x") + layer("ReLU", "a", "a", name="r"))
    compare(net)
    assert steps(net) == ["a", "r"]


def test_errors_name_the_layer():
    net = net_of(SHORTCUT)
    with torch.no_grad():
        for shape, name in (((1, 5, 9, 8), "'a'"), ((1, 6, 9), "'a'")):
            with pytest.raises(LayerError, match=f"layer {name} .Convolution., bottoms"):
                net(x=torch.zeros(shape))
    body = conv("a", "x") + conv("b", "x", fields="kernel_size: 2 stride: 2 pad: 1")
    net = net_of(body + layer("Eltwise", "a b", "c", SUM, "s"), (1, 6, 1, 1))
    assert compare(net)["c"].shape == (1, 6, 1, 1) and steps(net) == ["a", "b+s"]
    with torch.no_grad(), pytest.raises(LayerError, match=r"layer 's' .Eltwise., bottoms .* must have one shape"):
        net(x=torch.zeros(1, 6, 5, 8))


UNUSUAL = [
    ((2, 1, 14, 3), 2, "kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 7"),
    ((5, 1, 18, 1), 5, "kernel_h: 11 kernel_w: 5 stride_h: 1 stride_w: 4 pad_h: 0 pad_w: 2"),
    ((1, 1, 15, 7), 16, "kernel_h: 1 kernel_w: 5 stride_h: 1 stride_w: 4"),
    ((1, 256, 8, 1), 16, "kernel_h: 5 kernel_w: 1 stride: 2 pad_h: 20 pad_w: 3 dilation: 2 group: 16"),
    ((1, 3, 12, 2), 1, "kernel_h: 2 kernel_w: 1 stride_h: 1 stride_w: 4 pad_h: 0 pad_w: 2 dilation: 3"),
    ((2, 32, 15, 12), 256, "kernel_h: 1 kernel_w: 3 stride_h: 4 stride_w: 7 pad_h: 0 pad_w: 3 dilation: 2 group: 16"),
    ((1, 48, 16, 18), 32, "kernel_size: 11 stride_h: 4 stride_w: 7 pad_h: 1 pad_w: 3 group: 16"),
    ((1, 4, 6, 6), 4, "kernel_size: 3 pad: 100"),
]


@pytest.mark.parametrize(("shape", "outputs", "fields"), UNUSUAL)
def test_convolutions_that_onednn_gets_wrong_are_the_layers(shape, outputs, fields):
    body = conv("a", "x", outputs=outputs, fields=fields) + layer("ReLU", "a", "a", name="r")
    net = net_of(body + conv("b", "x", outputs=outputs, fields=fields) + layer("Eltwise", "a b", "c", SUM, "s"), shape)
    compare(net)
    assert steps(net) == ["a+r", "b", "s"]


def test_fingerprints_tell_contents_apart():
    random = torch.Generator().manual_seed(3)
    for size in (0, 1, 5, 127, 128, 129, 65536, 200001):
        values = torch.randn(size, generator=random)
        seen = {functional.fingerprint([values])}
        assert functional.fingerprint([values.clone()]) in seen
        for at in {0, size // 2, size - 1} if size else ():
            changed = values.clone()
            changed[at] = torch.nextafter(changed[at], torch.tensor(9.0))
            seen.add(functional.fingerprint([changed]))
        if size > 1:
            seen.add(functional.fingerprint([values.flip(0)]))
            seen.add(functional.fingerprint([values.roll(1)]))
            seen.add(functional.fingerprint([values[:-1]]))
        expected = 1 + (len({0, size // 2, size - 1}) if size else 0) + (3 if size > 1 else 0)
        assert len(seen) == expected
    blocks = torch.arange(4 * 65536, dtype=torch.int32).view(4, 65536)
    assert functional.fingerprint([blocks]) != functional.fingerprint([blocks[[1, 0, 2, 3]]])
    assert functional.fingerprint([blocks[0], blocks[1]]) != functional.fingerprint([blocks[1], blocks[0]])
    assert functional.fingerprint([blocks.t()]) == functional.fingerprint([blocks.t().contiguous()])
    with functional.pure_torch():
        assert functional.fingerprint([blocks]) != functional.fingerprint([blocks + 1])
