"""Default boxes and detections of SSD and YOLO. Boxes are (x1, y1, x2, y2) in fractions of the image."""

from __future__ import annotations

import torch

from caffe_bridge.convert.torch_export.parts.operators import caffe_operator, rows_of_data


def empty_priors(features, image, widths, *_, **__):
    return features.new_empty(1, 2, 4 * features.shape[2] * features.shape[3] * len(widths))


@caffe_operator(
    "(Tensor features, Tensor image, float[] widths, float[] heights, float[] variances, float offset, bool clip, "
    "float[]? image_size=None, float[]? step=None) -> Tensor",
    empty_priors,
)
def prior_boxes(features, image, widths, heights, variances, offset, clip, image_size=None, step=None):
    """Default boxes of these sizes in pixels around every cell, and their variances, (1, 2, 4 * boxes)."""
    image_size = image_size or tuple(image.shape[2:])
    centres = []
    for axis in range(2):
        count = features.shape[2 + axis]
        single = torch.tensor(image_size[axis], dtype=torch.float32) / count
        apart = float(single if step is None else torch.tensor(step[axis]))
        centres.append((torch.arange(count, dtype=torch.float32, device=features.device) + offset) * apart)
    y, x = (axis.double() for axis in torch.meshgrid(*centres, indexing="ij"))
    half = torch.tensor([widths, heights], dtype=torch.float32, device=features.device).T.double() / 2
    centre = torch.stack([x, y], -1)[:, :, None]
    boxes = torch.cat([centre - half, centre + half], -1)
    boxes = boxes / torch.tensor([*image_size[::-1]] * 2, dtype=torch.float64, device=features.device)
    boxes = boxes.to(features.dtype).reshape(-1, 4)
    boxes = boxes.clamp(0, 1) if clip else boxes
    spread = torch.tensor(variances, dtype=boxes.dtype, device=boxes.device).expand(boxes.shape)
    return torch.stack([boxes.flatten(), spread.flatten()])[None]


def overlap_with(box, boxes):
    """Intersection over union of a box with others; 0 for boxes that only touch."""
    side = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (box, boxes)]
    both = side.prod(1)
    return torch.where((side > 0).all(1), both / (areas[0] + areas[1] - both), 0)


def keep_apart(boxes, threshold, eta=1.0, inclusive=False):
    """Places of the boxes, best first, that overlap no better one among them by more than a threshold.

    With eta below 1 the threshold shrinks by it with each box kept while it is above 0.5.
    """
    left, worst = torch.arange(len(boxes), device=boxes.device), boxes.new_zeros(len(boxes))
    kept: list[torch.Tensor] = []
    while True:
        left = left[worst[left] < threshold] if inclusive else left[worst[left] <= threshold]
        if not len(left):
            return torch.stack(kept) if kept else left
        best, left = left[0], left[1:]
        kept.append(best)
        threshold = threshold * eta if eta < 1 and threshold > 0.5 else threshold
        worst[left] = torch.maximum(worst[left], overlap_with(boxes[best], boxes[left]))


def decode_codes(codes, priors, variances, kind):
    """Boxes from what a net predicts for default boxes; kind 1 is corners, 2 centre and size, 3 corners by size."""
    codes = codes if variances is None else codes * variances
    size = priors[:, 2:] - priors[:, :2]
    if kind == 1:
        return priors + codes
    if kind == 3:
        return priors + codes * torch.cat([size, size], 1)
    centre = codes[:, :2] * size + (priors[:, :2] + priors[:, 2:]) / 2
    half = codes[:, 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], 1)


def detection_rows(rows, batch, like):
    """Rows (image, label, score, box) as (1, 1, n, 7); without any, a row of -1 for each image."""
    if rows and sum(map(len, rows)):
        return torch.cat(rows)[None, None]
    empty = like.new_full((batch, 7), -1)
    empty[:, 0] = torch.arange(batch, device=like.device)
    return empty[None, None]


def empty_detections(like):
    return like.new_empty(1, 1, rows_of_data(), 7)


@caffe_operator(
    "(Tensor codes, Tensor scores, Tensor prior, int classes, int background=0, bool share_location=True, int kind=1, "
    "bool encoded_variance=False, float? least=None, int top_k=-1, float threshold=0.3, float eta=1.0, int keep=-1) "
    "-> Tensor",
    lambda codes, *_, **__: empty_detections(codes),
)
def ssd_detections(
    codes,
    scores,
    prior,
    classes,
    background=0,
    share_location=True,
    kind=1,
    encoded_variance=False,
    least=None,
    top_k=-1,
    threshold=0.3,
    eta=1.0,
    keep=-1,
):
    """Detections of a batch, (1, 1, n, 7): decoding, suppression for each class, the best of each image.

    Inputs: codes (N, boxes * 4), or 4 for each class; probabilities (N, boxes * classes); the default boxes.
    """
    priors, variances = prior.reshape(2, -1, 4).unbind()
    variances = None if encoded_variance else variances
    codes = codes.reshape(len(codes), len(priors), -1, 4)
    scores = scores.reshape(len(scores), len(priors), classes)
    least = torch.finfo(torch.float32).min if least is None else least
    rows = []
    for image in range(len(codes)):
        found = []
        for label in range(classes):
            if label == background:
                continue
            place = (scores[image, :, label] > least).nonzero()[:, 0]
            place = place[scores[image, place, label].argsort(descending=True, stable=True)]
            place = place[:top_k] if top_k > -1 else place
            own = codes[image, place, 0 if share_location else label]
            boxes = decode_codes(own, priors[place], None if variances is None else variances[place], kind)
            apart = keep_apart(boxes, threshold, eta)
            score = scores[image, place[apart], label]
            head = torch.stack([torch.full_like(score, image), torch.full_like(score, label), score], 1)
            found.append(torch.cat([head, boxes[apart]], 1))
        kept = torch.cat(found) if found else scores.new_zeros(0, 7)
        if keep > -1:
            best = kept[:, 2].argsort(descending=True, stable=True)[:keep]
            kept = kept[best.sort().values]
        rows.append(kept)
    return detection_rows(rows, len(codes), scores)


@caffe_operator(
    "(Tensor[] maps, float[] anchors, int[] boxes, float least, float threshold, bool every_class=False) -> Tensor",
    lambda maps, *_, **__: empty_detections(maps[0]),
)
def yolo_detections(maps, anchors, boxes, least, threshold, every_class=False):
    """Detections of YOLOv2, or of YOLOv3 with `every_class`, (1, 1, n, 7); all images and classes suppress each other.

    Args:
        anchors: width and height of each box of a cell, in cells; of all maps in turn.
        boxes: for each map, how many boxes a cell has.
        least: the least score of a detection.
        threshold: the overlap from which on a better detection suppresses.
        every_class: a detection for each class that is probable enough, not for the best one only.
    """
    own = torch.tensor(anchors).reshape(-1, 2).to(maps[0]).split(list(boxes))
    places, objects, classes = (torch.cat(values) for values in zip(*map(read_cells, maps, own)))
    if every_class:
        scores = classes.sigmoid() * objects[:, None]
        row, label = (scores > least).nonzero(as_tuple=True)
        score = scores[row, label]
    else:
        best, label = classes.softmax(1).max(1)
        score = objects * best
        row = (score >= least).nonzero()[:, 0]
        score, label = score[row], label[row]
    order = score.argsort(descending=True, stable=True)
    found, label, score = places[row][order], label[order] + 1, score[order]
    kept = keep_apart(found, threshold, inclusive=True)
    head = torch.stack([torch.zeros_like(score[kept]), label[kept].to(score.dtype), score[kept]], 1)
    return detection_rows([torch.cat([head, found[kept]], 1)], len(maps[0]), score)


def read_cells(x, anchors):
    """Of a map of YOLO: boxes (n, 4), how probable each is, and what it says of the classes (n, classes)."""
    height, width = x.shape[2:]
    values = x.unflatten(1, (len(anchors), -1)).permute(0, 3, 4, 1, 2)
    row, column = torch.meshgrid(
        torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij"
    )
    size = x.new_tensor([width, height])
    centre = (torch.stack([column, row], -1)[:, :, None] + values[..., :2].sigmoid()) / size
    half = values[..., 2:4].exp() * anchors / size / 2
    boxes = torch.cat([centre - half, centre + half], -1).reshape(-1, 4)
    return boxes, values[..., 4].sigmoid().flatten(), values[..., 5:].flatten(0, 3)
