"""DetectionOutput of SSD, and what YOLO's output layers share with it."""

from __future__ import annotations

import warnings

import torch

from caffe_bridge import ssd_boxes
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import ranks
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.suppression import suppress
from caffe_bridge.registry import register


def detections(
    images: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor, boxes: torch.Tensor, batch: int
) -> torch.Tensor:
    """The blob (1, 1, n, 7) of rows image, label, score, box.

    Where there is none, one row of -1 for each of the `batch` images, with its number in the first column.
    """
    if len(scores):
        rows = torch.cat([torch.stack([images.to(scores.dtype), labels.to(scores.dtype), scores], 1), boxes], 1)
    else:
        rows = scores.new_full((batch, 7), -1)
        rows[:, 0] = torch.arange(batch, device=scores.device)
    return rows[None, None]


def best_candidates(scores: torch.Tensor, threshold: float, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each group of scores [G, P] those above a threshold, best first, at most `limit` unless that is negative.

    Returns:
        int64 [G, K], positions in the group, and bool [G, K], false where a group has fewer than K candidates.
    """
    passed = scores > threshold
    most = int(passed.sum(1).max()) if passed.numel() else 0
    if 0 <= limit < most:
        most = limit
        least = scores.masked_fill(~passed, -torch.inf).topk(limit, 1).values[:, -1:] if limit else torch.inf
        passed &= scores >= least
    group, index = passed.nonzero(as_tuple=True)
    order = ranks.by_group(group, scores[group, index])
    group, index = group[order], index[order]
    place = ranks.places(group)
    inside = place < most
    table = index.new_zeros(len(scores), most)
    table[group[inside], place[inside]] = index[inside]
    valid = torch.zeros_like(table, dtype=torch.bool)
    valid[group[inside], place[inside]] = True
    return table, valid


@register("DetectionOutput", source="SSD")
class DetectionOutput(Layer):
    """Detections of a batch: decoding, non-maximum suppression for each class, the best of each image.

    Bottoms: codes (N, P * L * 4) with L = 1 if share_location else num_classes, probabilities (N, P * C), and
    PriorBox's boxes (1, 2, 4P); a fourth, the image, is not read. Top (1, 1, n, 7): image, label, score and the box in
    fractions of the image, unclipped; by image, label and falling score. Without any detection see `detections`.
    A box is dropped if it overlaps a better one of its class more than nms_threshold, which shrinks by `eta`
    with each box kept while it is above 0.5. Result files and pictures are not written.
    """

    bottoms = (3, 4)
    no_gradient = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.detection_output_param
        if not param.num_classes:
            raise LayerError("needs detection_output_param.num_classes, above 0")
        self.classes, self.background = param.num_classes, param.background_label_id
        self.share_location = param.share_location
        if self.share_location and self.background == -1:
            raise LayerError("background_label_id: -1 goes with share_location: false only")
        self.code_type, self.in_target = param.code_type, param.variance_encoded_in_target
        given = param.HasField("confidence_threshold")
        self.threshold = param.confidence_threshold if given else torch.finfo(torch.float32).min
        self.keep_top_k = param.keep_top_k
        nms = param.nms_param
        self.top_k = nms.top_k if nms.HasField("top_k") else -1
        self.nms_threshold, self.eta = nms.nms_threshold, nms.eta
        if self.nms_threshold < 0 or not 0 < self.eta <= 1:
            raise LayerError(f"nms_threshold must not be negative, and eta in (0, 1]: {self.nms_threshold}, {self.eta}")
        if param.save_output_param.output_directory or param.visualize:
            warnings.warn("DetectionOutput returns detections; it writes no files and no pictures", stacklevel=2)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_predictions(bottom_shapes, 1 if self.share_location else self.classes, self.classes)
        return [(1, 1, 1, 7)]

    @torch.no_grad()
    def forward(self, codes: torch.Tensor, scores: torch.Tensor, prior: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        priors, variances = ssd_boxes.read_priors(prior)
        ssd_boxes.check_sizes(priors, self.code_type)
        batch, count = len(codes), len(priors)
        labels = torch.tensor([c for c in range(self.classes) if c != self.background], device=codes.device)
        by_class = scores.reshape(batch, count, self.classes).transpose(1, 2)[:, labels].flatten(0, 1)
        index, valid = best_candidates(by_class, self.threshold, self.top_k)
        image = torch.arange(batch, device=codes.device).repeat_interleave(len(labels))
        label = labels.repeat(batch)
        location = torch.zeros_like(label) if self.share_location else label
        picked = codes.reshape(batch, count, -1, 4)[image[:, None], index, location[:, None]]
        boxes = ssd_boxes.decode(picked, priors[index], None if self.in_target else variances[index], self.code_type)
        kept = suppress(boxes, valid, self.nms_threshold, self.eta)
        group, place = kept.nonzero(as_tuple=True)
        image, label, score = image[group], label[group], by_class[group, index[group, place]]
        box = boxes[group, place]
        if self.keep_top_k > -1:
            order = ranks.by_group(image, score)
            best = torch.zeros_like(image, dtype=torch.bool)
            best[order] = ranks.places(image[order]) < self.keep_top_k
            image, label, score, box = image[best], label[best], score[best], box[best]
        return detections(image, label, score, box, batch)


def check_predictions(bottom_shapes: list[Shape], locations: int, classes: int) -> None:
    """LayerError unless codes, class scores and priors, the first three bottoms, agree on the number of priors."""
    codes, scores, prior = (torch.Size(shape) for shape in bottom_shapes[:3])
    if len(prior) < 3 or prior[1] != 2 or prior[2] % 4 or prior.numel() != 2 * prior[2]:
        raise LayerError(f"takes PriorBox's boxes (1, 2, 4P) as the third bottom, not {tuple(prior)}")
    count = prior[2] // 4
    wanted = (codes[:1].numel() * count * locations * 4, codes[:1].numel() * count * classes)
    if not codes or codes[:1] != scores[:1] or (codes.numel(), scores.numel()) != wanted:
        raise LayerError(
            f"with {count} priors, codes have {count * locations * 4} values an image and scores {count * classes}; "
            f"their shapes are {tuple(codes)} and {tuple(scores)}"
        )
