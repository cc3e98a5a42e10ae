"""The region proposal network (Ren et al., NIPS 2015), as MNC and its Faster R-CNN share it."""

from __future__ import annotations

from typing import Any, NamedTuple

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from .model import Model

TARGETS = ("rpn_labels", "rpn_bbox_targets", "rpn_bbox_inside_weights", "rpn_bbox_outside_weights")


class Names(NamedTuple):
    """What the hidden layer's convolution, ReLU and blob are called, which weights depend on."""

    convolution: str
    relu: str
    blob: str


MNC = Names("rpn_conv_3x3", "rpn_relu_3x3", "rpn_output")
FASTER_RCNN = Names("rpn_conv/3x3", "rpn_relu/3x3", "rpn/output")
ALTERNATING_ZF = Names("rpn_conv1", "rpn_relu1", "rpn_conv1")


def scores_and_deltas(n: NetSpec, m: Model, features: str, names: Names = MNC) -> None:
    """`outputs`, and `rpn_cls_score_reshape`: an anchor's two scores in the two channels that a softmax compares."""
    outputs(n, m, features, names, blocks.trained(m))
    n.rpn_cls_score_reshape = L.Reshape(n.rpn_cls_score, shape={"dim": [0, 2, -1, 0]})


def outputs(n: NetSpec, m: Model, features: str, names: Names, param: list[dict[str, Any]]) -> None:
    """`rpn_cls_score` and `rpn_bbox_pred` of every anchor; `param` is the layers' ParamSpecs."""
    hidden = blocks.pretrained(m) or blocks.gaussian(0.01)
    n[names.blob] = _conv(n, features, m.rpn_channels, 3, name=names.convolution, param=param, **hidden)
    blocks.relu(n, names.relu, names.blob)
    n.rpn_cls_score = _conv(n, names.blob, 2 * m.anchors, 1, param=param, **blocks.gaussian(0.01))
    n.rpn_bbox_pred = _conv(n, names.blob, 4 * m.anchors, 1, param=param, **blocks.gaussian(0.01))


def _conv(n: NetSpec, bottom: str, num_output: int, kernel_size: int, **settings: Any) -> Any:
    return L.Convolution(
        n[bottom],
        num_output=num_output,
        kernel_size=kernel_size,
        pad=kernel_size // 2,
        stride=1,
        **settings,
    )


def probabilities(n: NetSpec, m: Model) -> None:
    """`rpn_cls_prob_reshape`: background, then foreground probability of every anchor."""
    n.rpn_cls_prob = L.Softmax(n.rpn_cls_score_reshape)
    n.rpn_cls_prob_reshape = L.Reshape(n.rpn_cls_prob, shape={"dim": [0, 2 * m.anchors, -1, 0]})


def proposals(n: NetSpec, m: Model, tops: tuple[str, ...], **options: Any) -> None:
    """The RoIs; in training, `options` go to the layer and the gradient to the deltas alone."""
    bottoms = ("rpn_cls_prob_reshape", "rpn_bbox_pred", "im_info")
    down = [False, True, False] if m.train else None
    options = m.anchor_settings() | (options if m.train else {"gradient_scale": 1})
    blocks.python(n, "proposal", "pylayer.proposal_layer.ProposalLayer", bottoms, tops, down, **options)


def targets(n: NetSpec, m: Model, bottoms: tuple[str, ...], package: str = "pylayer") -> None:
    """What each anchor should have answered."""
    layer = f"{package}.anchor_target_layer.AnchorTargetLayer"
    blocks.python(n, "rpn-data", layer, bottoms, TARGETS, **m.anchor_settings())


def losses(n: NetSpec) -> None:
    """Softmax over the sampled anchors, smooth L1 with sigma 3 over the positive ones."""
    blocks.softmax_loss(n, "rpn_loss_cls", "rpn_cls_score_reshape", TARGETS[0], "rpn_cls_loss")
    bottoms = ("rpn_bbox_pred", *TARGETS[1:])
    blocks.box_loss(n, "rpn_loss_bbox", bottoms, "rpn_loss_bbox", smooth_l1_loss_param={"sigma": 3.0})
