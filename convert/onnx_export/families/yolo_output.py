"""The output layers of YOLO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.families.detection_output import detection_shapes, detections
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.suppression import column, suppress


@exports("YoloDetectionOutput", shapes=detection_shapes)
def yolo_detection_output(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Each box with its most probable class, suppressed across classes and images."""
    layer = node.layer
    boxes, objects, classes = _predictions(graph, node, bottoms, [layer.anchors.numpy()] * len(bottoms))
    probabilities = graph.add("Softmax", classes, axis=1)
    best = graph.reduce("ReduceMax", probabilities, [1], keepdims=False)
    label = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    scores = graph.add("Mul", objects, best)
    row = _where(graph, graph.add("GreaterOrEqual", scores, graph.constant(layer.confidence)))
    label, scores = (graph.add("Gather", values, row, axis=0) for values in (label, scores))
    return [_detections(graph, node, boxes, row, label, scores)]


@exports("Yolov3DetectionOutput", shapes=detection_shapes)
def yolov3_detection_output(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A box for each class that is probable enough, suppressed across classes and images."""
    layer = node.layer
    boxes, objects, classes = _predictions(graph, node, bottoms, [anchors.numpy() for anchors in layer.anchors])
    objects = graph.add("Unsqueeze", objects, graph.integers(1))
    scores = graph.add("Reshape", graph.add("Mul", graph.add("Sigmoid", classes), objects), graph.integers(-1))
    place = _where(graph, graph.add("Greater", scores, graph.constant(layer.confidence)))
    row, label = (graph.add(how, place, graph.integers(layer.classes)) for how in ("Div", "Mod"))
    return [_detections(graph, node, boxes, row, label, graph.add("Gather", scores, place, axis=0))]


def _where(graph: GraphBuilder, condition: str) -> str:
    """The numbers of the true elements of (n,)."""
    found = graph.add("NonZero", graph.cast(condition, TensorProto.FLOAT))
    return graph.add("Reshape", found, graph.integers(-1))


def _predictions(
    graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str], anchors: Sequence[np.ndarray]
) -> tuple[str, str, str]:
    """Boxes (n, 4) (centre x, centre y, width, height), probabilities of an object (n,) and class scores (n, C)."""
    parts = []
    channels = 5 + node.layer.classes
    for bottom, (images, _, height, width), sizes in zip(bottoms, node.bottoms, anchors):
        values = graph.reshape(bottom, [images, len(sizes), channels, height, width])
        values = graph.add("Transpose", values, perm=[0, 3, 4, 1, 2])
        x, y = (
            graph.add("Unsqueeze", graph.cast(graph.arange(count), TensorProto.FLOAT), graph.integers(*axes))
            for count, axes in ((width, (1, 2)), (height, (1, 2, 3)))
        )
        cell = graph.add(
            "Add", graph.add("Mul", x, graph.constant([1, 0])), graph.add("Mul", y, graph.constant([0, 1]))
        )
        size = graph.cast(graph.shape([width, height]), TensorProto.FLOAT)
        centre = graph.add("Add", graph.add("Sigmoid", graph.part(values, 4, 0, 2)), cell)
        extent = graph.add("Mul", graph.add("Exp", graph.part(values, 4, 2, 4)), graph.constant(sizes))
        boxes = graph.add("Concat", *(graph.add("Div", part, size) for part in (centre, extent)), axis=4)
        objects = graph.add("Sigmoid", graph.part(values, 4, 4, 5))
        shaped = ((boxes, (-1, 4)), (objects, (-1,)), (graph.part(values, 4, 5), (-1, channels - 5)))
        parts.append([graph.add("Reshape", value, graph.integers(*shape)) for value, shape in shaped])
    boxes, objects, classes = (graph.add("Concat", *values, axis=0) for values in zip(*parts))
    return boxes, objects, classes


def _detections(graph: GraphBuilder, node: ExportedLayer, boxes: str, row: str, label: str, scores: str) -> str:
    """The blob of those of the boxes in `row` (k,) that survive suppression, best first; the image is always 0."""
    boxes = graph.add("Gather", boxes, row, axis=0)
    group = graph.add("Unsqueeze", boxes, graph.integers(0))
    ranks = graph.add("Unsqueeze", scores, graph.integers(0, 1))
    how = {"inclusive": True, "centred": True, "positive": True}
    selected = suppress(graph, group, ranks, node.layer.nms_threshold, graph.add("Shape", scores), **how)
    index = column(graph, selected, 2)
    boxes, label, scores = (graph.add("Gather", values, index, axis=0) for values in (boxes, label, scores))
    centre, half = graph.part(boxes, 1, 0, 2), graph.times(graph.part(boxes, 1, 2), 0.5)
    corners = graph.add("Concat", graph.add("Sub", centre, half), graph.add("Add", centre, half), axis=1)
    label = graph.add("Add", label, graph.integers(1))
    return detections(graph, graph.add("Sub", label, label), label, scores, corners, node.bottoms[0][0])
