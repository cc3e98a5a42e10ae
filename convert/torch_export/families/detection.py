"""Layers of detectors: default boxes, proposals, pooling of regions, detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_bridge.config import cfg
from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import Expression, ModuleSource, call
from caffe_bridge.layers import torch_image_transform


@writes("PriorBox")
def prior_box(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Boxes of the sizes at hand."""
    layer = node.layer
    widths, heights = ([float(side) for side in sides] for sides in zip(*layer.sizes))
    # PriorBox computes in double precision: its numbers are not to be shortened to those of single precision.
    return call(
        code.part("prior_boxes"),
        *map(Expression, bottoms),
        widths=Expression(repr(widths)),
        heights=Expression(repr(heights)),
        variances=Expression(repr(list(layer.variances))),
        offset=Expression(repr(layer.offset)),
        clip=layer.clip,
        image_size=layer.image_size,
        step=None if layer.step is None else Expression(repr(layer.step)),
        layer=code.note(node),
    )


@writes("DetectionOutput")
def detection_output(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Decoding, suppression for each class, the best of each image."""
    layer = node.layer
    return call(
        code.part("ssd_detections"),
        *map(Expression, bottoms[:3]),
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
        layer=code.note(node, bottoms=3),
    )


@writes("YoloDetectionOutput", "Yolov3DetectionOutput")
def yolo_output(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Decoding, and one suppression for all."""
    layer, third = node.layer, node.type == "Yolov3DetectionOutput"
    anchors = layer.anchors if third else [layer.anchors] * len(bottoms)
    return call(
        code.part("yolo_detections"),
        [Expression(bottom) for bottom in bottoms],
        [side for each in anchors for pair in each.tolist() for side in pair],
        [len(each) for each in anchors],
        layer.confidence,
        layer.nms_threshold,
        every_class=third or None,
        layer=code.note(node),
    )


@writes("ROIPooling")
def roi_pooling(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """The maximum of each bin."""
    return _pooled(code, "roi_pooling", node, bottoms)


@writes("ROIWarping")
def roi_warping(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Bilinear samples."""
    return _pooled(code, "roi_warping", node, bottoms)


def _pooled(code: ModuleSource, part: str, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    layer, note = node.layer, code.note(node)
    size = tuple(layer.pooled_size)
    return call(code.part(part), *map(Expression, bottoms), size, layer.spatial_scale, layer=note)


@writes("PSROIPooling")
def psroi_pooling(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """The mean of each bin, over channels of its own."""
    layer, note = node.layer, code.note(node)
    settings = (layer.output_dim, layer.group_size, layer.spatial_scale)
    return call(code.part("psroi_pooling"), *map(Expression, bottoms), *settings, layer=note)


@writes("Proposal")
def proposal(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Decoding, suppression, the best."""
    layer = node.layer
    made = call(
        code.part("Proposals"),
        _rows(layer.anchors.numpy()),
        ("rois", "scores")[: len(node.tops)],
        layer.stride,
        layer.min_size,
        layer.before,
        layer.after,
        layer.threshold,
        drop_small=False,
        layer=code.note(node),
    )
    return code.module(made, *bottoms)


@writes("rpn.proposal_layer.ProposalLayer")
def rpn_proposal_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """As Proposal, with the settings of cfg.TEST."""
    return _test_proposals(code, node, bottoms, "score_column")


@writes("pylayer.proposal_layer.ProposalLayer")
def mnc_proposal_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """As Proposal, with the settings of cfg.TEST."""
    return _test_proposals(code, node, bottoms, "numbers")


def _test_proposals(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str], second: str) -> str:
    settings = cfg.TEST
    made = call(
        code.part("Proposals"),
        _rows(node.layer.anchors),
        ("rois", second)[: len(node.tops)],
        node.layer.stride,
        settings.RPN_MIN_SIZE,
        settings.RPN_PRE_NMS_TOP_N,
        settings.RPN_POST_NMS_TOP_N,
        settings.RPN_NMS_THRESH,
        inclusive=None if cfg.USE_GPU_NMS else True,
        layer=code.note(node),
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
    return call(code.part("refine_rois"), *map(Expression, bottoms), layer=code.note(node))


@writes("transform.torch_image_transform_layer.TorchImageTransformLayer")
def torch_image_transform_layer(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Arithmetic."""
    old = [float(mean) for mean in np.ravel(cfg.PIXEL_MEANS)]
    numbers = (old, list(torch_image_transform.MEANS), list(torch_image_transform.DEVIATIONS))
    return f"{code.part('for_torch')}({bottoms[0]}, {', '.join(map(repr, numbers))})"
