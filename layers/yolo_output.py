"""YoloDetectionOutput and Yolov3DetectionOutput of MobileNet-YOLO."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.detection_output import detections
from caffe_bridge.layers.suppression import suppress_by
from caffe_bridge.registry import register


def centred_overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes [..., 4] (centre x, centre y, width, height) that broadcast."""
    x, y, width, height = a.unbind(-1)
    x_b, y_b, width_b, height_b = b.unbind(-1)
    sides = [
        torch.minimum(centre + size / 2, centre_b + size_b / 2)
        - torch.maximum(centre - size / 2, centre_b - size_b / 2)
        for centre, size, centre_b, size_b in ((x, width, x_b, width_b), (y, height, y_b, height_b))
    ]
    both = sides[0].clamp(min=0) * sides[1].clamp(min=0)
    return both / (width * height + width_b * height_b - both)


def predictions(blob: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a blob [N, A * (5 + C), H, W] says of each image, cell and anchor, in this order, n in all.

    Args:
        blob: for each anchor the channels x, y, width, height, object, and one per class.
        anchors: [A, 2], widths and heights in cells.

    Returns:
        boxes [n, 4] (centre x, centre y, width, height) in fractions of the image, probabilities of an object [n],
        and the raw class scores [n, C].
    """
    height, width = blob.shape[2:]
    values = blob.unflatten(1, (len(anchors), -1)).permute(0, 3, 4, 1, 2)
    y, x = torch.meshgrid(*(torch.arange(n, device=blob.device) for n in (height, width)), indexing="ij")
    cell = torch.stack([x, y], -1)[:, :, None]
    size = torch.tensor([width, height], dtype=blob.dtype, device=blob.device)
    centre = (cell + values[..., :2].sigmoid()) / size
    boxes = torch.cat([centre, values[..., 2:4].exp() * anchors / size], -1)
    return boxes.reshape(-1, 4), values[..., 4].sigmoid().flatten(), values[..., 5:].flatten(0, 3)


def yolo_detections(
    boxes: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor, threshold: float, batch: int
) -> torch.Tensor:
    """The blob of detections after suppression at an overlap of `threshold` or more, best first.

    As in the fork, all images and classes suppress each other, and the image's number is 0 in every row.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, labels, scores = boxes[order], labels[order] + 1, scores[order]
    everything = torch.ones_like(scores, dtype=torch.bool)
    kept = suppress_by(boxes[None], everything[None], threshold, centred_overlaps, inclusive=True)[0]
    centre, half = boxes[kept, :2], boxes[kept, 2:] / 2
    corners = torch.cat([centre - half, centre + half], 1)
    return detections(torch.zeros_like(labels[kept]), labels[kept], scores[kept], corners, batch)


class _YoloOutput(Layer):
    """What the two versions share: the shapes of their bottoms and top."""

    no_gradient = Layer.ALL_BOTTOMS

    classes: int
    boxes: int

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        channels = self.boxes * (5 + self.classes)
        for shape in bottom_shapes:
            if len(shape) != 4 or shape[1] != channels:
                raise LayerError(f"takes bottoms (N, {channels}, H, W), {5 + self.classes} a box, not {tuple(shape)}")
        return [(1, 1, 1, 7)]

    def _anchors(self, biases: list[float], wanted: int) -> torch.Tensor:
        if not self.classes or not self.boxes:
            raise LayerError("num_classes must be given, and it and num_box above 0")
        if len(biases) < 2 * wanted:
            raise LayerError(f"needs biases, width and height, for {wanted} anchors; {len(biases)} are given")
        return torch.tensor(biases[: len(biases) // 2 * 2]).reshape(-1, 2)


@register("YoloDetectionOutput", source="MobileNet-YOLO")
class YoloDetectionOutput(_YoloOutput):
    """Detections of YOLOv2 (Redmon and Farhadi, arXiv:1612.08242), for each box its most probable class.

    Bottoms: one or two blobs (N, num_box * (5 + num_classes), S, S), square. `biases` are the boxes' widths and
    heights in cells, the same for both; `side` is ignored. Top (1, 1, n, 7): image (always 0), label + 1, score, box
    in fractions of the image, unclipped; see `yolo_detections`.
    """

    bottoms = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.yolo_detection_output_param
        self.classes, self.boxes = param.num_classes if param.HasField("num_classes") else 0, param.num_box
        self.confidence, self.nms_threshold = param.confidence_threshold, param.nms_threshold
        self.anchors = self._anchors(list(param.biases), self.boxes)[: self.boxes]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if any(shape[2:3] != shape[3:] for shape in bottom_shapes):
            raise LayerError(f"takes square maps, not {bottom_shapes}")
        return super().top_shapes(bottom_shapes)

    @torch.no_grad()
    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor:
        read = [predictions(bottom, self.anchors.to(bottom)) for bottom in bottoms]
        boxes, objects, classes = (torch.cat(parts) for parts in zip(*read))
        best, labels = classes.softmax(1).max(1)
        scores = objects * best
        kept = scores >= self.confidence
        return yolo_detections(boxes[kept], labels[kept], scores[kept], self.nms_threshold, len(bottoms[0]))


@register("Yolov3DetectionOutput", source="MobileNet-YOLO")
class Yolov3DetectionOutput(_YoloOutput):
    """Detections of YOLOv3 (Redmon and Farhadi, arXiv:1804.02767), one for every class probable enough.

    Bottoms: mask_group_num blobs (N, num_box * (5 + num_classes), H, W). `biases` are widths and heights of anchors in
    pixels of the input, whose side is anchors_scale times the map's; `mask` lists the anchors of each bottom in turn.
    Top as YoloDetectionOutput's.
    """

    bottoms = (1, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.yolov3_detection_output_param
        self.classes, self.boxes = param.num_classes if param.HasField("num_classes") else 0, param.num_box
        self.confidence, self.nms_threshold = param.confidence_threshold, param.nms_threshold
        if param.gaussian_box:
            raise LayerError("gaussian_box is not supported: the fork's own CPU version of it finds nothing")
        groups, mask, scales = param.mask_group_num, list(param.mask), list(param.anchors_scale)
        if len(bottom_shapes) != groups or len(scales) < groups:
            raise LayerError(f"takes mask_group_num ({groups}) bottoms, and an anchors_scale for each")
        apart = len(mask) // groups
        if (groups - 1) * apart + self.boxes > len(mask) or 0 in scales:
            raise LayerError(f"needs num_box ({self.boxes}) anchors in `mask` for each of {groups} bottoms, got {mask}")
        anchors = self._anchors(list(param.biases), max(mask) + 1)
        self.anchors = [anchors[mask[t * apart : t * apart + self.boxes]] / scales[t] for t in range(groups)]

    @torch.no_grad()
    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor:
        read = [predictions(bottom, anchors.to(bottom)) for bottom, anchors in zip(bottoms, self.anchors)]
        boxes, objects, classes = (torch.cat(parts) for parts in zip(*read))
        scores = classes.sigmoid() * objects[:, None]
        row, labels = (scores > self.confidence).nonzero(as_tuple=True)
        return yolo_detections(boxes[row], labels, scores[row, labels], self.nms_threshold, len(bottoms[0]))
