"""RNN and LSTM against recorded cases and against loops in NumPy; the state between passes, exposed or kept."""

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

import caffe_bridge
from caffe_bridge import CaffeError

T, N, INPUTS, OUTPUTS, STATIC = 4, 3, 5, 2, 3


@pytest.mark.parametrize("name", cases("RNN", "LSTM"))
def test_recorded(name):
    check_case(name)


def make(kind, static=False, exposed=False, steps=T, num=N):
    """A float64 layer with random blobs, and shapes of its bottoms."""
    shapes = [(steps, num, INPUTS), (steps, num)] + [(num, STATIC)] * static
    states = 2 if kind == "LSTM" else 1
    shapes += [(1, num, OUTPUTS)] * (states * exposed)
    tops = " ".join(f'top: "t{i}"' for i in range(1 + states * exposed))
    text = f"""type: "{kind}" {tops} recurrent_param {{ num_output: {OUTPUTS} expose_hidden: {str(exposed).lower()}
               weight_filler {{ type: "uniform" min: -1 max: 1 }} bias_filler {{ type: "uniform" min: -1 max: 1 }} }}"""
    return make_layer(text, *shapes).double(), shapes


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unroll_by_loops(kind, blobs, x, cont, static=None, states=None):
    """Outputs (steps, num, outputs) and last states (states, num, outputs), step by step."""
    blobs = [blob.detach().numpy() for blob in blobs]
    w_x, b, *rest = blobs
    w_static = rest.pop(0) if static is not None else None
    w_h = rest.pop(0)
    hidden, cell = states if states is not None else np.zeros((2, x.shape[1], OUTPUTS))
    outputs = []
    for x_t, cont_t in zip(x, cont):
        total = x_t @ w_x.T + b + (cont_t[:, None] * hidden) @ w_h.T
        if static is not None:
            total = total + static @ w_static.T
        if kind == "RNN":
            hidden = np.tanh(total)
            outputs.append(np.tanh(hidden @ rest[0].T + rest[1]))
        else:
            i, f, o, g = np.split(total, 4, -1)
            cell = sigmoid(f) * cont_t[:, None] * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            outputs.append(hidden)
    return np.stack(outputs), (hidden, cell)


def data(shapes):
    bottoms = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    bottoms[1] = torch.randint(0, 2, shapes[1]).double()
    return bottoms


KINDS = pytest.mark.parametrize("kind", ["RNN", "LSTM"])


@KINDS
@pytest.mark.parametrize("static", [False, True])
def test_blobs_in_the_unrolled_nets_order(kind, static):
    layer, shapes = make(kind, static)
    rows = OUTPUTS * (4 if kind == "LSTM" else 1)
    wanted = [(rows, INPUTS), (rows,), *[(rows, STATIC)] * static, (rows, OUTPUTS)]
    wanted += [(OUTPUTS, OUTPUTS), (OUTPUTS,)] * (kind == "RNN")
    assert [tuple(blob.shape) for blob in layer.blobs] == wanted
    assert layer.top_shapes(shapes) == [(T, N, OUTPUTS)]


@KINDS
@pytest.mark.parametrize("static", [False, True])
def test_the_state_goes_on_from_pass_to_pass(kind, static):
    layer, shapes = make(kind, static)
    states = None
    for _ in range(3):
        bottoms = data(shapes)
        wanted, states = unroll_by_loops(
            kind, layer.blobs, *(b.numpy() for b in bottoms), *[None] * (not static), states
        )
        np.testing.assert_allclose(layer(*bottoms).detach().numpy(), wanted, atol=1e-12)
    layer.reset()
    wanted, _ = unroll_by_loops(kind, layer.blobs, *(b.numpy() for b in bottoms))
    np.testing.assert_allclose(layer(*bottoms).detach().numpy(), wanted, atol=1e-12)


@KINDS
def test_two_passes_are_one_longer_pass(kind):
    long, shapes = make(kind, steps=2 * T)
    short, _ = make(kind)
    short.load_state_dict(long.state_dict())
    x, cont = data(shapes)
    torch.testing.assert_close(torch.cat([short(x[:T], cont[:T]), short(x[T:], cont[T:])]), long(x, cont))


@KINDS
def test_cont_zero_forgets(kind):
    layer, shapes = make(kind)
    x, cont = data(shapes)
    cont[0] = 0
    first = layer(x, cont)
    torch.testing.assert_close(layer(x, cont), first)


@KINDS
@pytest.mark.parametrize("static", [False, True])
def test_gradients_are_the_derivatives(kind, static):
    layer, shapes = make(kind, static)
    x, cont, *rest = data(shapes)
    cont[0] = 0
    names = [name for name, _ in layer.named_parameters()]
    inputs = [t.detach().requires_grad_() for t in (x, *rest, *layer.parameters())]

    def run(x, *values):
        parameters = dict(zip(names, values[len(rest) :]))
        return torch.func.functional_call(layer, parameters, (x, cont, *values[: len(rest)]))

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@KINDS
def test_no_gradient_crosses_passes(kind):
    layer, shapes = make(kind)
    x, cont = data(shapes)
    cont.fill_(1)
    x.requires_grad_()
    layer(x, cont)
    layer(x.detach(), cont).sum().backward()
    assert x.grad is None


@KINDS
def test_exposed_states(kind):
    layer, shapes = make(kind, static=True, exposed=True)
    assert layer.top_shapes(shapes) == [(T, N, OUTPUTS)] + shapes[3:]
    bottoms = [b.requires_grad_() for b in data(shapes)]
    top, *last = layer(*bottoms)
    given = [b.detach().numpy()[0] for b in bottoms[3:]]
    states = (given[0], given[-1])
    wanted, after = unroll_by_loops(kind, layer.blobs, *(b.detach().numpy() for b in bottoms[:3]), states)
    np.testing.assert_allclose(top.detach().numpy(), wanted, atol=1e-12)
    for got, state in zip(last, after[: 2 if kind == "LSTM" else 1], strict=True):
        np.testing.assert_allclose(got.numpy()[0], state, atol=1e-12)
    top.sum().backward()
    assert [b.grad is not None for b in bottoms] == [True, False, True] + [False] * len(last)
    assert list(layer.constants) == list(range(3, len(bottoms)))
    torch.testing.assert_close(layer(*bottoms)[0], top)


@KINDS
def test_another_number_of_streams(kind):
    layer, shapes = make(kind)
    x, cont = data(shapes)
    cont.fill_(1)
    layer(x, cont)
    fresh = layer.state.clone()
    fewer = layer(x[:, :2], cont[:, :2])
    wanted, _ = unroll_by_loops(
        kind, layer.blobs, x.numpy()[:, :2], cont.numpy()[:, :2], None, fresh.numpy()[[0, -1], :2]
    )
    np.testing.assert_allclose(fewer.detach().numpy(), wanted, atol=1e-12)
    more = [torch.cat([bottom, bottom], 1) for bottom in (x, cont)]
    wanted, _ = unroll_by_loops(kind, layer.blobs, *(b.numpy() for b in more))
    np.testing.assert_allclose(layer(*more).detach().numpy(), wanted, atol=1e-12)


@KINDS
def test_in_a_net_that_trains(kind):
    text = f"""
    layer {{ name: "in" type: "Input" top: "x" top: "cont"
             input_param {{ shape {{ dim: 3 dim: 2 dim: 4 }} shape {{ dim: 3 dim: 2 }} }} }}
    layer {{ name: "r" type: "{kind}" bottom: "x" bottom: "cont" top: "y" param {{ lr_mult: 0 }} recurrent_param {{
             num_output: 2 weight_filler {{ type: "uniform" min: -1 max: 1 }} }} loss_weight: 1 }}"""
    net = caffe_bridge.Net(text, phase="TRAIN")
    x, cont = torch.rand(3, 2, 4), torch.ones(3, 2)
    for _ in range(2):
        net.loss(net(x=x, cont=cont)).backward()
    grads = [blob.grad is not None for blob in net.params["r"]]
    assert grads == [False] + [True] * (len(grads) - 1)
    assert not any("state" in key for key in net.state_dict())


@KINDS
def test_exports(kind):
    layer, shapes = make(kind)
    bottoms = data(shapes)
    exported = torch.export.export(layer, tuple(bottoms)).module()
    wanted = [layer(*bottoms) for _ in range(2)]
    layer.reset()
    torch.testing.assert_close([exported(*bottoms) for _ in range(2)], wanted)


@KINDS
@pytest.mark.parametrize(
    "shapes",
    [
        [(4, 3), (4, 3)],
        [(4, 3, 2), (3, 4)],
        [(4, 3, 2), (4, 3, 1)],
        [(0, 3, 2), (0, 3)],
        [(4, 3, 2), (4, 3), (3,)],
        [(4, 3, 2), (4, 3), (2, 5)],
        [(4, 3, 2), (4, 3), (3, 1), (3, 1)],
    ],
)
def test_refuses_other_shapes(kind, shapes):
    with pytest.raises(CaffeError):
        make_layer(f'type: "{kind}" recurrent_param {{ num_output: 2 }}', *shapes).top_shapes(shapes)


@KINDS
def test_other_refusals(kind):
    with pytest.raises(CaffeError, match="num_output"):
        make_layer(f'type: "{kind}"', (4, 3, 2), (4, 3))
    with pytest.raises(CaffeError, match="bottom"):
        make_layer(f'type: "{kind}" recurrent_param {{ num_output: 2 expose_hidden: true }}', (4, 3, 2), (4, 3))
    layer, shapes = make(kind)
    with pytest.raises(CaffeError, match="4 steps"):
        layer.top_shapes([(T + 1, *shapes[0][1:]), (T + 1, N)])
    layer, shapes = make(kind, exposed=True)
    with pytest.raises(CaffeError, match="exposed state"):
        layer.top_shapes([*shapes[:2], (1, N, OUTPUTS + 1), *shapes[3:]])
