"""py-faster-rcnn's definitions by the name of their directory in prototxt/: three ways to train, on several trunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec

from . import py_faster_rcnn, rpn, trunks
from .catalogue import ADAM, FASTER_RCNN_PAPER, SGD, Definition
from .py_faster_rcnn import Detector


@dataclass(frozen=True)
class Alternating:
    """A network with the nets and solvers of its training in four steps: an RPN and Fast R-CNN on its proposals, twice.

    Attributes:
        about: what it is, for the files' headers.
        paper: where it was published.
        model: its sizes.
        solver: fields of the SolverParameters besides train_net, snapshot_prefix and what `steps` holds.
        steps: fields for the RPN's and for Fast R-CNN's solvers, such as stepsize.
        prefix: what snapshots' names begin with.
    """

    about: str
    paper: str
    model: Detector
    solver: dict[str, Any]
    steps: tuple[dict[str, Any], dict[str, Any]]
    prefix: str

    def nets(self) -> dict[str, tuple[str, Callable[[Any], NetSpec], Detector]]:
        """File name without suffix to what the net is, the function that makes it, and its model."""
        first, test = replace(self.model, train=True), replace(self.model, train=False)
        second = replace(first, fixed_trunk=True)
        return {
            "stage1_rpn_train": ("Training network of the first step", py_faster_rcnn.rpn_stage, first),
            "stage1_fast_rcnn_train": ("Training network of the second step", py_faster_rcnn.fast_rcnn_stage, first),
            "stage2_rpn_train": ("Training network of the third step", py_faster_rcnn.rpn_stage, second),
            "stage2_fast_rcnn_train": ("Training network of the fourth step", py_faster_rcnn.fast_rcnn_stage, second),
            "rpn_test": ("Proposing test network of the first and third step", py_faster_rcnn.rpn_stage, test),
            "faster_rcnn_test": ("Test network", py_faster_rcnn.end_to_end, test),
        }

    def solvers(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """File name without suffix to what the solver is, and the fields of its SolverParameter."""
        found = {}
        for number, step in enumerate(("first", "second", "third", "fourth")):
            part = ("rpn", "fast_rcnn")[number % 2]
            stage = f"stage{1 + number // 2}_{part}"
            own = {"train_net": f"{stage}_train.prototxt", "snapshot_prefix": f"{self.prefix}_{part}"}
            found[f"{stage}_solver"] = f"Solver of the {step} step", {**self.solver, **self.steps[number % 2], **own}
        return found


_FAST_RCNN_PAPER = "R. Girshick: Fast R-CNN, ICCV 2015"
_SOLVER = SGD | {"display": 20}
_TINY_SOLVER = ADAM | {"lr_policy": "step"}

_ZF = Detector(
    "ZF",
    trunks.zf,
    rpn_channels=256,
    features=256,
    roi_size=6,
    pooling=("roi_pool_conv5", "roi_pool_conv5"),
    dropout={"dropout_ratio": 0.5, "scale_train": False},
)
_VGG_CNN_M = Detector("VGG_CNN_M_1024", trunks.vgg_cnn_m, rpn_channels=256, roi_size=6, last_hidden=1024)
_VGG16 = Detector("VGG_ILSVRC_16_layers", trunks.vgg16)
_TINY = Detector(
    "Faster_RCNN_tiny",
    trunks.tiny,
    classes=5,
    stride=8,
    anchor_scales=(1.5, 3, 6),
    rpn_channels=64,
    features=64,
    hidden=128,
    dropout=None,
    from_scratch=True,
)

_TRUNKS = {"zf": ("ZF", _ZF), "vgg_cnn_m_1024": ("VGG_CNN_M_1024", _VGG_CNN_M), "vgg16": ("VGG-16", _VGG16)}
_PASSES = {"vgg_cnn_m_1024": 1}  # images an update of Faster R-CNN sees; 2 on other trunks


def _for_coco(model: Detector) -> Detector:
    return replace(model, classes=81, anchor_scales=(4, 8, 16, 32), dropout=None)


def _definitions() -> dict[str, Definition | Alternating]:
    found: dict[str, Definition | Alternating] = {}
    for name, (trunk, model) in _TRUNKS.items():
        for suffix, where, sized, steps in (
            ("", "as published with py-faster-rcnn", model, (50000, 30000)),
            ("_coco", "as published with py-faster-rcnn for COCO", _for_coco(model), (350000, 200000)),
        ):
            if suffix and name == "zf":
                continue
            passes = {"iter_size": _PASSES.get(name, 2)}
            found[f"faster_rcnn_{name}{suffix}"] = Definition(
                f"Faster R-CNN on {trunk}, trained end to end, {where}",
                FASTER_RCNN_PAPER,
                py_faster_rcnn.end_to_end,
                sized,
                _SOLVER | passes | {"stepsize": steps[0], "snapshot_prefix": f"{name}_faster_rcnn"},
            )
            found[f"fast_rcnn_{name}{suffix}"] = Definition(
                f"Fast R-CNN on {trunk}, {where}",
                _FAST_RCNN_PAPER,
                py_faster_rcnn.fast_rcnn,
                sized,
                _SOLVER | {"stepsize": steps[1], "snapshot_prefix": f"{name}_fast_rcnn"},
            )
        found[f"faster_rcnn_alt_opt_{name}"] = Alternating(
            f"Faster R-CNN on {trunk}, trained in four steps, as published with py-faster-rcnn",
            FASTER_RCNN_PAPER,
            replace(model, rpn_names=rpn.ALTERNATING_ZF) if name == "zf" else model,
            _SOLVER,
            ({"stepsize": 60000}, {"stepsize": 30000}),
            name,
        )
    found["fast_rcnn_tiny"] = Definition(
        "Fast R-CNN, thin, for images of about 200 pixels",
        _FAST_RCNN_PAPER,
        py_faster_rcnn.fast_rcnn,
        _TINY,
        _TINY_SOLVER | {"stepsize": 1000, "snapshot_prefix": "fast_rcnn_tiny"},
    )
    found["faster_rcnn_alt_opt_tiny"] = Alternating(
        "Faster R-CNN, thin, for images of about 200 pixels, trained in four steps",
        FASTER_RCNN_PAPER,
        _TINY,
        _TINY_SOLVER,
        ({"stepsize": 800}, {"stepsize": 1200}),
        "tiny",
    )
    return found


DETECTORS = _definitions()
