"""py-faster-rcnn's region proposal layer: boxes, and their scores where asked for, from the RPN's outputs."""

from __future__ import annotations

import torch

from caffe_bridge.layers import cascade, proposal
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python


@register_python("rpn.proposal_layer", "ProposalLayer")
class ProposalLayer(Layer):
    """RoIs [n, 5] (0, x1, y1, x2, y2) in scaled-image pixels from RPN outputs of one image.

    Bottoms: background and foreground probabilities (1, 2A, H, W), regression outputs (1, 4A, H, W), im_info (1, 3).
    Tops: the RoIs by falling score and, where a second one is named, their foreground probabilities (n, 1).
    `param_str`: feat_stride (pixels per cell), scales of the anchors (`cascade.anchors`).

    Nothing gets a gradient, unlike with MNC's layer of the same name. Source: py-faster-rcnn's rpn/proposal_layer.py.
    """

    bottoms = (3, 3)
    tops = (1, 2)
    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        values = cascade.options(self.param, "feat_stride")
        self.stride = cascade.positive(values, "feat_stride")
        self.anchors = cascade.anchors(values)
        proposal.check_shapes(len(self.anchors), bottom_shapes[0], bottom_shapes[1])

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shapes: list[Shape] = [(1, 5), (1, 1)]
        return shapes[: len(self.param.top)]

    def forward(self, scores: torch.Tensor, deltas: torch.Tensor, im_info: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chosen = proposal.propose(scores, deltas, im_info, self.anchors, self.stride, self.phase)
        rois = torch.nn.functional.pad(chosen.boxes, (1, 0))
        return (rois, chosen.scores[:, None])[: len(self.param.top)]
