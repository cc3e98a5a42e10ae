"""DetectionEvaluate of SSD."""

from __future__ import annotations

from pathlib import Path

import torch

from caffe_bridge import schema, ssd_boxes
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


def read_sizes(path: str) -> list[tuple[int, int]]:
    """(height, width) of each image, from a file of lines `name height width`; LayerError if it cannot be read."""
    try:
        words = Path(path).read_text(encoding="utf-8", errors="replace").split()
        return [(int(height), int(width)) for height, width in zip(words[1::3], words[2::3])]
    except (OSError, ValueError) as error:
        raise LayerError(f"cannot read the image sizes in name_size_file '{path}': {error}") from error


def to_pixels(boxes: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Boxes [..., 4] clipped to their image and in its pixels; sizes [..., 2] are height and width."""
    return boxes.clamp(0, 1) * sizes.flip(-1).repeat(*[1] * (sizes.ndim - 1), 2)


def pixel_overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Overlaps of boxes [..., 4] in pixels whose corners are inclusive; boxes apart share one pixel, as in SSD."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    apart = (high < low).any(-1)
    both = torch.where(apart, 1, (high - low + 1).prod(-1))
    area_a, area_b = ((box[..., 2:] - box[..., :2] + 1).prod(-1) for box in (a, b))
    return both / (area_a + area_b - both)


@register("DetectionEvaluate", source="SSD")
class DetectionEvaluate(Layer):
    """Marks detections as true or false positives.

    Bottoms: detections (1, 1, D, 7), rows image, label, score, box; ground truth (1, 1, G, 8), rows image, label,
    instance, box, difficult, up to the first whose image is -1. Top (1, 1, n, 5): first a row -1, label, number of
    ground truths, -1, -1 for every class but the background; then for each detection image, label, score, true
    positive, false positive. A detection counts for the ground truth of its image and label it overlaps most; the
    best-scored with at least overlap_threshold is a true positive, later ones are false. For a difficult one that is
    not to be evaluated a detection is neither.

    With name_size_file, overlaps are those of whole pixels in images of the sizes listed there, one after the other.
    """

    bottoms = (2, 2)
    no_gradient = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.detection_evaluate_param
        if not param.num_classes:
            raise LayerError("needs detection_evaluate_param.num_classes, above 0")
        if not param.overlap_threshold > 0:
            raise LayerError(f"overlap_threshold must be above 0, not {param.overlap_threshold:g}")
        self.classes, self.background = param.num_classes, param.background_label_id
        self.threshold = param.overlap_threshold
        self.with_difficult = param.evaluate_difficult_gt
        self.sizes = read_sizes(param.name_size_file) if param.name_size_file else []
        if self.sizes and param.HasField("resize_param"):
            if param.resize_param.resize_mode != schema.ResizeParameter.WARP:
                raise LayerError("takes resize_param with resize_mode: WARP only")
        self.seen = 0

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        for shape, columns in zip(bottom_shapes, (7, 8)):
            if len(shape) != 4 or (shape[0], shape[1], shape[3]) != (1, 1, columns):
                raise LayerError(f"takes detections (1, 1, D, 7) and ground truth (1, 1, G, 8), not {bottom_shapes}")
        labels = self.classes - (self.background in range(self.classes))
        return [(1, 1, labels + bottom_shapes[0][2], 5)]

    @torch.no_grad()
    def forward(self, detected: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        rows, truth = detected[0, 0], truth[0, 0]
        valid = int((rows[:, 1] != -1).sum())
        rows = rows[rows[:, 0].long() != -1]
        truth = truth[(truth[:, 0].long() == -1).cumsum(0) == 0]
        for what, given in (("detections", rows), ("ground truth", truth)):
            if bool((given[:, 1].long() == self.background).any()):
                raise LayerError(f"the {what} contain the background label {self.background}")
        counted = torch.ones_like(truth[:, 7], dtype=torch.bool) if self.with_difficult else truth[:, 7] == 0
        labels = torch.arange(self.classes, device=rows.device)
        labels = labels[labels != self.background]
        top = rows.new_zeros(len(labels) + valid, 5)
        top[: len(labels)] = -1
        top[: len(labels), 1] = labels.to(rows.dtype)
        top[: len(labels), 2] = ((truth[:, 1].long() == labels[:, None]) & counted).sum(1).to(rows.dtype)
        sizes = self._image_sizes(rows)
        judged = self._judge(rows[rows[:, 1].long() != -1], truth, counted, sizes)
        top[len(labels) : len(labels) + len(judged)] = judged
        return top[None, None]

    def _image_sizes(self, rows: torch.Tensor) -> dict[int, tuple[int, int]]:
        """The size of every image with a detection, going on in the list from where the last batch ended."""
        if not self.sizes:
            return {}
        images = [int(image) for image in rows[:, 0].long().unique()]
        sizes = {image: self.sizes[(self.seen + i) % len(self.sizes)] for i, image in enumerate(images)}
        self.seen = (self.seen + len(images)) % len(self.sizes)
        return sizes

    def _judge(
        self, rows: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor, sizes: dict[int, tuple[int, int]]
    ) -> torch.Tensor:
        """Rows (image, label, score, true positive, false positive) in the order of the top."""
        image, label = rows[:, 0].long(), rows[:, 1].long()
        own = (image[:, None] == truth[:, 0].long()) & (label[:, None] == truth[:, 1].long())
        # A class without ground truth keeps the order of the input.
        order = torch.where(own.any(1), rows[:, 2], 0).argsort(descending=True, stable=True)
        for key in (label, image):
            order = order[key[order].argsort(stable=True)]
        rows, image, own = rows[order], image[order], own[order]
        judged = torch.cat([image[:, None].to(rows.dtype), label[order, None].to(rows.dtype), rows[:, 2:3]], 1)
        if not own.numel():
            return torch.cat([judged, torch.zeros_like(judged[:, :1]), torch.ones_like(judged[:, :1])], 1)
        boxes, truths = rows[:, None, 3:7], truth[None, :, 3:7]
        if sizes:
            shape = torch.tensor([sizes[int(i)] for i in image], device=rows.device, dtype=rows.dtype)[:, None]
            found = pixel_overlaps(to_pixels(boxes, shape), to_pixels(truths, shape))
        else:
            found = ssd_boxes.overlaps(boxes, truths)
        best, target = found.masked_fill(~own, -1).max(1)
        hit = best >= self.threshold
        place = torch.arange(len(rows), device=rows.device)
        first = place.new_full((len(truth),), len(rows)).scatter_reduce(0, target[hit], place[hit], "amin")
        true = hit & (first[target] == place)
        matters = ~hit | counted[target]
        verdict = torch.stack([true & matters, ~true & matters], 1)
        return torch.cat([judged, verdict.to(rows.dtype)], 1)
