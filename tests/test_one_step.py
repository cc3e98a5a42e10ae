"""One update of mnc5_tiny from given weights, images and seed: native kernels, pure torch, and plain NumPy agree."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy_reference import mnc5_tiny, solvers
from numpy_reference.cascade import Truth
from small_scene import mnc_blobs, scene

from caffe_bridge import Net, Solver, native
from caffe_bridge.config import cfg
from caffe_bridge.layers import functional as F

MODEL = Path(__file__).parent.parent / "prototxt" / "mnc5_tiny"
SEED = 11
SETTINGS: dict[str, Any] = {
    "BATCH_SIZE": 12,
    "BBOX_NORMALIZE_MEANS": [0.02, -0.01, 0.03, 0.0],
    "BBOX_NORMALIZE_STDS": [0.1, 0.1, 0.2, 0.2],
    "RPN_NEGATIVE_OVERLAP": 0.3,
    "RPN_POSITIVE_OVERLAP": 0.45,
    "RPN_FG_FRACTION": 0.1,
    "RPN_BATCHSIZE": 24,
    "RPN_MIN_SIZE": 8,
    "RPN_PRE_NMS_TOP_N": 60,
    "RPN_POST_NMS_TOP_N": 10,
    "RPN_NMS_THRESH": 0.5,
}
GLOBAL_SETTINGS: dict[str, Any] = {"MASK_SIZE": 21, "BINARIZE_THRESH": 0.4}
ADAM = {"type": "Adam", "base_lr": 0.001, "momentum": 0.9, "momentum2": 0.999, "weight_decay": 0.0001}  # its own
SGD = {
    **{"type": "SGD", "base_lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005},
    **{"iter_size": 2, "clip_gradients": 8.0},
}
UPDATES_BEFORE = 3

needs_native = pytest.mark.skipif(not native.load().loaded, reason="the extension is not built")


@pytest.fixture(autouse=True)
def settings() -> None:
    cfg.TRAIN.update(SETTINGS, BBOX_NORMALIZE_TARGETS_PRECOMPUTED=True)
    cfg.update(GLOBAL_SETTINGS)


class Reference(NamedTuple):
    """What NumPy computes: the losses of each pass, and the gradients of the first and of both passes together."""

    parameters: mnc5_tiny.Parameters
    history: dict[Any, Any]
    images: list[tuple[np.ndarray, Truth]]
    losses: list[dict[str, float]]
    gradients: dict[int, mnc5_tiny.Parameters]


@pytest.fixture(scope="module")
def reference() -> Reference:
    random = np.random.RandomState(SEED)
    parameters: mnc5_tiny.Parameters = {}
    for name, (weight, bias) in Net(str(MODEL / "train.prototxt"), phase="TRAIN").params.items():
        if not name.endswith("_ext"):
            gain = {"rpn_bbox_pred": 0.3, "cls_score": 0.01, "seg_cls_score": 0.01, "bbox_pred": 0.1}.get(name, 2.0)
            spread = np.sqrt(gain / np.prod(weight.shape[1:]))
            values = random.normal(0, spread, weight.shape), random.normal(0, 0.05, bias.shape)
            parameters[name] = [value.astype(np.float32).astype(np.float64) for value in values]
    images = [scene(SEED, number) for number in range(2)]
    np.random.seed(SEED)
    passes = [mnc5_tiny.Net(parameters, *image, {**SETTINGS, **GLOBAL_SETTINGS}) for image in images]
    for one in passes:
        one.backward()  # draws nothing
    first, second = (one.gradients for one in passes)
    both = {name: [a + b for a, b in zip(first[name], second[name])] for name in first}
    history = {
        (name, i): 1e-5 * random.standard_normal((2, *blob.shape))
        for name, blobs in parameters.items()
        for i, blob in enumerate(blobs)
    }
    return Reference(parameters, history, images, [one.losses for one in passes], {1: first, 2: both})


def solver_of(fields: dict[str, Any]) -> Solver:
    """mnc5_tiny's own solver where it is Adam; else one of these fields."""
    if fields["type"] == "Adam":
        return Solver(str(MODEL / "solver.prototxt"))
    lines = [f'{key}: "{value}"' if isinstance(value, str) else f"{key}: {value}" for key, value in fields.items()]
    return Solver(f'train_net: "{MODEL / "train.prototxt"}" lr_policy: "fixed" ' + " ".join(lines))


def histories(solver: dict[str, Any], reference: Reference) -> dict[Any, Any]:
    """The solver's memory before the update: momentum, or first and second moments."""
    if solver["type"] == "SGD":
        return {key: (values[0],) for key, values in reference.history.items()}
    return {key: (values[0], values[1] ** 2) for key, values in reference.history.items()}


@pytest.mark.parametrize("fields, dtype, tolerance", [(ADAM, torch.float64, 1e-7), (SGD, torch.float32, 1e-4)])
@pytest.mark.parametrize("kernels", [pytest.param("native", marks=needs_native), "pure"])
def test_update(
    kernels: str, fields: dict[str, Any], dtype: torch.dtype, tolerance: float, reference: Reference
) -> None:
    passes = fields.get("iter_size", 1)
    memory = histories(fields, reference)
    want = solvers.updates(reference.parameters, reference.gradients[passes], memory, UPDATES_BEFORE + 1, fields)

    solver, losses = step(kernels, fields, dtype, reference)

    for got, expected in zip(losses, reference.losses[:passes], strict=True):
        assert got == pytest.approx({**got, **expected}, rel=tolerance)
    for name, updates in want.items():
        for i, (blob, update) in enumerate(zip(solver.net.params[name], updates, strict=True)):
            got = blob.grad.double().numpy()  # after the update, what was subtracted
            assert np.abs(got - update).max() <= tolerance * np.abs(update).max(), (name, i)
            after = torch.from_numpy(reference.parameters[name][i]).to(dtype) - blob.grad
            assert torch.equal(blob.detach(), after), (name, i)


def step(
    kernels: str, fields: dict[str, Any], dtype: torch.dtype, reference: Reference
) -> tuple[Solver, list[dict[str, float]]]:
    """A solver after one update, and the losses of its passes."""
    solver = solver_of(fields)
    solver.net.to(dtype)
    memory = histories(fields, reference)
    for name, values in reference.parameters.items():
        for i, (blob, value) in enumerate(zip(solver.net.params[name], values)):
            blob.data.copy_(torch.from_numpy(value))
            for key, array in zip(solver.optimizer.history, memory[name, i]):
                solver.optimizer.state[blob][key] = torch.from_numpy(array).to(dtype)
    solver.iter = UPDATES_BEFORE
    feed = iter([mnc_blobs(*image) for image in reference.images])
    solver.net.graph.nodes[0].layer.forward = lambda: next(feed)
    losses: list[dict[str, float]] = []
    solver.net.register_forward_hook(lambda net, inputs, tops: losses.append(scalars(tops)))
    np.random.seed(SEED)
    with F.pure_torch() if kernels == "pure" else contextlib.nullcontext():
        solver.step(1)
    return solver, losses


def scalars(tops: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: blob.item() for name, blob in tops.items() if blob.numel() == 1}
