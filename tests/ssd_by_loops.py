"""SSD's layers box by box in NumPy, as slow and as plain as can be: what the layers are tested against."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np


def area(b):
    return 0.0 if b[2] < b[0] or b[3] < b[1] else float((b[2] - b[0]) * (b[3] - b[1]))


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return float(w * h / (area(a) + area(b) - w * h)) if w > 0 and h > 0 else 0.0


def decode(t, p, v, code_type):
    w, h = p[2] - p[0], p[3] - p[1]
    t = t * v
    if code_type == "CORNER":
        return p + t
    if code_type == "CORNER_SIZE":
        return p + t * np.array([w, h, w, h])
    cx, cy = t[0] * w + (p[0] + p[2]) / 2, t[1] * h + (p[1] + p[3]) / 2
    bw, bh = math.exp(t[2]) * w, math.exp(t[3]) * h
    return np.array([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2])


def encode(b, p, v, code_type):
    w, h = p[2] - p[0], p[3] - p[1]
    if code_type == "CORNER":
        return (b - p) / v
    if code_type == "CORNER_SIZE":
        return (b - p) / np.array([w, h, w, h]) / v
    bw, bh = b[2] - b[0], b[3] - b[1]
    dx, dy = (b[0] + b[2] - p[0] - p[2]) / 2 / w, (b[1] + b[3] - p[1] - p[3]) / 2 / h
    return np.array([dx, dy, math.log(bw / w), math.log(bh / h)]) / v


def falling(scores):
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def detection_output(loc, conf, prior, o):
    """Rows (image, label, score, box); `o` has the fields of DetectionOutputParameter."""
    n, p = len(loc), prior.shape[2] // 4
    priors, variances = prior[0].reshape(2, p, 4)
    loc, conf = loc.reshape(n, p, -1, 4), conf.reshape(n, p, o.num_classes)
    rows = []
    for i in range(n):
        found = []
        for c in range(o.num_classes):
            if c == o.background_label_id:
                continue
            order = [j for j in falling(conf[i, :, c]) if conf[i, j, c] > o.confidence_threshold]
            kept, threshold = [], o.nms_threshold
            for j in order[: o.top_k] if o.top_k > -1 else order:
                v = np.ones(4) if o.variance_encoded_in_target else variances[j]
                box = decode(loc[i, j, 0 if o.share_location else c], priors[j], v, o.code_type)
                if all(iou(box, other) <= threshold for _, other in kept):
                    kept.append((conf[i, j, c], box))
                    if o.eta < 1 and threshold > 0.5:
                        threshold *= o.eta
            found += [(i, c, score, *box) for score, box in kept]
        if -1 < o.keep_top_k < len(found):
            best = set(falling([row[2] for row in found])[: o.keep_top_k])
            found = [row for j, row in enumerate(found) if j in best]
        rows += found
    return np.array(rows or [(i, *[-1] * 6) for i in range(n)], np.float64)


def match(boxes, truths, o):
    """(index, overlap) of each box; truths are (number, box)."""
    index, overlap, pairs = [-1] * len(boxes), [0.0] * len(boxes), {}
    if not truths:
        return index, overlap
    for i, box in enumerate(boxes):
        if o.ignore_cross_boundary_bbox and ((box < 0) | (box > 1)).any():
            index[i] = -2
            continue
        for g, (_, truth) in enumerate(truths):
            value = iou(box, truth)
            if value > 1e-6:
                pairs[i, g] = value
                overlap[i] = max(overlap[i], value)
    used = set()
    while True:
        best, pair = -1.0, None
        for (i, g), value in sorted(pairs.items()):
            if index[i] == -1 and g not in used and value > best:
                best, pair = value, (i, g)
        if pair is None:
            break
        index[pair[0]], overlap[pair[0]] = truths[pair[1]][0], best
        used.add(pair[1])
    if o.match_type == "PER_PREDICTION":
        for i in range(len(boxes)):
            options = [(-pairs[i, g], g) for g in range(len(truths)) if pairs.get((i, g), -1) >= o.overlap_threshold]
            if index[i] == -1 and options:
                value, g = min(options)
                index[i], overlap[i] = truths[g][0], -value
    return index, overlap


def logistic(x, t):
    return max(x, 0) - x * t + math.log1p(math.exp(-abs(x)))


def multibox_loss(loc, conf, prior, gt, o):
    """loss and its gradients by loc and conf; `o` has the fields of MultiBoxLossParameter, and normalization."""
    n, p, c = len(loc), prior.shape[2] // 4, o.num_classes
    priors, variances = prior[0].reshape(2, p, 4).astype(np.float64)
    locations = 1 if o.share_location else c
    loc4, conf3 = loc.reshape(n, p, locations, 4).astype(np.float64), conf.reshape(n, p, c).astype(np.float64)
    rows = [r for r in gt.reshape(-1, 8) if r[0] != -1 and (o.use_difficult_gt or not r[7])]
    truth = {i: [(k, r[3:7].astype(np.float64)) for k, r in enumerate(rows) if r[0] == i] for i in range(n)}
    label = [int(r[1]) for r in rows]
    box_of = [r[3:7].astype(np.float64) for r in rows]

    def scale(j):
        return np.ones(4) if o.encode_variance_in_target else variances[j]

    def predicted(i, s):
        return [decode(loc4[i, j, s], priors[j], scale(j), o.code_type) for j in range(p)]

    matches = {}  # (image, class) -> index, overlap
    for i in range(n):
        if not truth[i]:
            continue
        if o.use_prior_for_matching:
            index, overlap = match(list(priors), truth[i], o)
            for s in range(locations):
                if o.share_location:
                    matches[i, s] = (index, overlap)
                elif s != o.background_label_id:
                    matches[i, s] = ([k if k >= 0 and label[k] == s else -1 for k in index], overlap)
        else:
            for s in range(locations):
                if not o.share_location and s == o.background_label_id:
                    continue
                own = [(k, b) for k, b in truth[i] if o.share_location or label[k] == s]
                matches[i, s] = match(predicted(i, s), own, o)

    def difference(i, s, j, k):
        target = encode(box_of[k], priors[j], scale(j), o.code_type)
        d = loc4[i, j, s] - target
        if o.bp_inside:
            placed = priors[j] if o.use_prior_for_matching else predicted(i, s)[j]
            d = np.where((placed < 0) | (placed > 1), 0, d)
        return d / variances[j] if o.encode_variance_in_target else d

    def errors(d):
        return np.where((np.abs(d) < 1) | (o.loc_loss_type == "L2"), d * d / 2, np.abs(d) - 0.5).sum()

    def softmax(row):
        e = np.exp(row - row.max())
        return e / e.sum()

    negatives = []
    if o.mining_type != "NONE":
        for i in range(n):
            if (i, 0) not in matches:
                continue
            index, overlap = matches[i, 0]
            loss = []
            for j in range(p):
                s = label[index[j]] if index[j] >= 0 else o.background_label_id
                if o.conf_loss_type == "SOFTMAX":
                    value = -math.log(max(softmax(conf3[i, j])[s], 1.17549435e-38))
                else:
                    value = sum(logistic(x, float(k == s)) for k, x in enumerate(conf3[i, j]))
                if o.mining_type == "HARD_EXAMPLE" and index[j] >= 0:
                    value += errors(difference(i, 0, j, index[j]))
                loss.append(value)
            hard = o.mining_type == "HARD_EXAMPLE"
            pool = [j for j in range(p) if hard or (index[j] == -1 and overlap[j] < o.neg_overlap)]
            wanted = (
                o.sample_size if hard else int(np.float32(sum(k >= 0 for k in index)) * np.float32(o.neg_pos_ratio))
            )
            order = [pool[q] for q in falling([loss[j] for j in pool])]
            if o.nms_threshold is not None and o.nms_threshold > 0:
                boxes = list(priors) if o.use_prior_for_nms else predicted(i, 0)
                kept = []
                for j in order if o.top_k < 0 else order[: o.top_k]:
                    if area(boxes[j]) >= 1e-5 and all(iou(boxes[j], boxes[q]) <= o.nms_threshold for q in kept):
                        kept.append(j)
                order = kept
            chosen = set(order[:wanted])
            if hard:
                index = [k if k < 0 or j in chosen else -1 for j, k in enumerate(index)]
                dropped = [j for j, k in enumerate(matches[i, 0][0]) if k >= 0 and j not in chosen]
                matches[i, 0] = (index, overlap)
                chosen -= set(dropped)
            negatives += [(i, j) for j in sorted(chosen) if index[j] == -1]

    positives = [(i, s, j, k) for (i, s), (index, _) in matches.items() for j, k in enumerate(index) if k >= 0]
    dloc, dconf = np.zeros_like(loc4), np.zeros_like(conf3)
    loc_loss = conf_loss = 0.0
    for i, s, j, k in positives:
        d = difference(i, s, j, k)
        loc_loss += errors(d)
        dloc[i, j, s] = d if o.loc_loss_type == "L2" else np.clip(d, -1, 1)
    label_of = {
        (i, j): (o.background_label_id + 1 if o.map_object_to_agnostic else label[k]) for i, _, j, k in positives
    }
    if o.mining_type != "NONE":
        used = {**label_of, **dict.fromkeys(negatives, o.background_label_id)}
    else:
        used = {(i, j): label_of.get((i, j), o.background_label_id) for i in range(n) for j in range(p)}
    if o.conf_loss_type == "SOFTMAX":
        for (i, j), s in used.items():
            prob = softmax(conf3[i, j])
            conf_loss -= math.log(prob[s])
            dconf[i, j] = prob - (np.arange(c) == s)
    else:
        target = {at: [float(o.background_label_id)] * c for at in used}
        if o.mining_type == "NONE":
            flat = [float(o.background_label_id)] * (n * p * c)
            for i, _, j, k in positives:
                flat[i * p + j * c + (o.background_label_id + 1 if o.map_object_to_agnostic else label[k])] = 1.0
            target = {(i, j): flat[(i * p + j) * c :][:c] for i, j in used}
        else:
            for at, s in used.items():
                target[at][s] = 1.0
        for (i, j), row in target.items():
            for k, t in enumerate(row):
                conf_loss += logistic(conf3[i, j, k], t)
                dconf[i, j, k] = 1 / (1 + math.exp(-conf3[i, j, k])) - t
    divisor = max(1, {"FULL": n * p, "VALID": len(positives), "BATCH_SIZE": n, "NONE": 1}[o.normalization])
    total = (o.loc_weight * loc_loss + conf_loss) / divisor
    return total, (o.loc_weight * dloc / divisor).reshape(loc.shape), (dconf / divisor).reshape(conf.shape)


def detection_evaluate(det, gt, o):
    """The rows of DetectionEvaluate; `o` has the fields of DetectionEvaluateParameter."""
    truth = []
    for row in gt.reshape(-1, 8):
        if row[0] == -1:
            break
        truth.append(row)
    rows = []
    for c in range(o.num_classes):
        if c != o.background_label_id:
            own = [t for t in truth if t[1] == c and (o.evaluate_difficult_gt or not t[7])]
            rows.append((-1, c, len(own), -1, -1))
    det = [d for d in det.reshape(-1, 7) if d[0] != -1 and d[1] != -1]
    for image, label in sorted({(d[0], d[1]) for d in det}):
        mine = [d for d in det if (d[0], d[1]) == (image, label)]
        own = [t for t in truth if (t[0], t[1]) == (image, label)]
        if own:
            mine = [mine[j] for j in falling([d[2] for d in mine])]
        seen = set()
        for d in mine:
            values = [iou(d[3:], t[3:7]) for t in own]
            best = int(np.argmax(values)) if own else -1
            verdict = (0, 1)
            if own and values[best] >= o.overlap_threshold:
                if not o.evaluate_difficult_gt and own[best][7]:
                    verdict = (0, 0)
                elif best not in seen:
                    seen.add(best)
                    verdict = (1, 0)
            rows.append((image, label, d[2], *verdict))
    return np.array(rows, np.float64)


def options(defaults, **changes):
    """The defaults with changes, as attributes."""
    return SimpleNamespace(**{**defaults, **changes})
