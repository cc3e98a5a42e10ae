"""Layers of detectors: default boxes, proposals, pooling of regions, detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_bridge.config import cfg
from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import ModuleSource, call, literal
from caffe_bridge.layers import torch_image_transform


@writes("PriorBox")
def prior_box(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Boxes of the sizes at hand."""
    layer = node.layer
    options = {
        "sizes": [tuple(float(side) for side in size) for size in layer.sizes],
        "variances": list(layer.variances),
        "offset": layer.offset,
        "clip": layer.clip,
        "image_size": layer.image_size,
        "step": layer.step,
    }
    given = [f"{name}={_exact(value)}" for name, value in options.items() if value is not None]
    return f"{code.part('prior_boxes')}({', '.join([*bottoms, *given])})"


def _exact(value: object) -> str:
    """Numbers as they are: PriorBox computes in double precision."""
    return repr(value)


@writes("DetectionOutput")
def detection_output(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Decoding, suppression for each class, the best of each image."""
    layer = node.layer
    made = call(
        code.part("SSDDetections"),
        layer.classes,
        background=layer.background or None,
        share_location=None if layer.share_location else False,
        kind=layer.code_type if layer.code_type != 1 else None,
        encoded_variance=layer.in_target or None,
        least=layer.threshold if layer.threshold > -1e38 else None,
        top_k=layer.top_k if layer.top_k != -1 else None,
        threshold=layer.nms_threshold,
        eta=layer.eta if layer.eta != 1 else None,
        keep=layer.keep_top_k if layer.keep_top_k != -1 else None,
    )
    return code.module(made, *bottoms[:3])


@writes("YoloDetectionOutput", "Yolov3DetectionOutput")
def yolo_output(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Decoding, and one suppression for all."""
    layer, third = node.layer, node.type == "Yolov3DetectionOutput"
    anchors = layer.anchors if third else [layer.anchors] * len(bottoms)
    made = call(
        code.part("YoloDetections"),
        [[tuple(pair) for pair in each.tolist()] for each in anchors],
        layer.confidence,
        layer.nms_threshold,
        every_class=third or None,
    )
    return code.module(made, *bottoms)


@writes("ROIPooling")
def roi_pooling(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """The maximum of each bin."""
    return _pooled(code, "roi_pooling", node, bottoms)


@writes("ROIWarping")
def roi_warping(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Bilinear samples."""
    return _pooled(code, "roi_warping", node, bottoms)


def _pooled(code: ModuleSource, part: str, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    layer = node.layer
    return f"{code.part(part)}({', '.join(bottoms)}, {tuple(layer.pooled_size)}, {literal(layer.spatial_scale)})"


@writes("PSROIPooling")
def psroi_pooling(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """The mean of each bin, over channels of its own."""
    layer = node.layer
    size = f"{layer.output_dim}, {layer.group_size}, {literal(layer.spatial_scale)}"
    return f"{code.part('psroi_pooling')}({', '.join(bottoms)}, {size})"


@writes("Proposal")
def proposal(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Decoding, suppression, the best."""
    layer = node.layer
    made = call(
        code.part("Proposals"),
        _rows(layer.anchors.numpy()),
        layer.stride,
        layer.min_size,
        layer.before,
        layer.after,
        layer.threshold,
        drop_small=False,
    )
    return f"{code.module(made, *bottoms)}{'[:2]' if len(node.tops) > 1 else '[0]'}"


@writes("rpn.proposal_layer.ProposalLayer")
def rpn_proposal_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """As Proposal, with the settings of cfg.TEST."""
    top = _test_proposals(code, node, bottoms)
    if len(node.tops) == 1:
        return f"{top}[0]"
    return f"(lambda rois, scores, _: (rois, scores[:, None]))(*{top})"


@writes("pylayer.proposal_layer.ProposalLayer")
def mnc_proposal_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """As Proposal, with the settings of cfg.TEST."""
    top = _test_proposals(code, node, bottoms)
    return f"{top}[::2]" if len(node.tops) > 1 else f"{top}[0]"


def _test_proposals(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    settings = cfg.TEST
    made = call(
        code.part("Proposals"),
        _rows(node.layer.anchors),
        node.layer.stride,
        settings.RPN_MIN_SIZE,
        settings.RPN_PRE_NMS_TOP_N,
        settings.RPN_POST_NMS_TOP_N,
        settings.RPN_NMS_THRESH,
        inclusive=None if cfg.USE_GPU_NMS else True,
    )
    return code.module(made, *bottoms)


def _rows(anchors: np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(float(side) for side in row) for row in anchors]


@writes("pylayer.mask_layer.MaskLayer")
def mask_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Tensor.reshape."""
    size = int(cfg.MASK_SIZE)
    return f"{bottoms[0]}.reshape(-1, 1, {size}, {size})"


@writes("pylayer.stage_bridge_layer.StageBridgeLayer")
def stage_bridge_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """RoIs moved by the outputs of their best class."""
    return f"{code.part('refine_rois')}({', '.join(bottoms)})"


@writes("transform.torch_image_transform_layer.TorchImageTransformLayer")
def torch_image_transform_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Arithmetic."""
    old = [float(mean) for mean in np.ravel(cfg.PIXEL_MEANS)]
    numbers = (old, list(torch_image_transform.MEANS), list(torch_image_transform.DEVIATIONS))
    return f"{code.part('for_torch')}({bottoms[0]}, {', '.join(map(repr, numbers))})"
