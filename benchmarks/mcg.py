"""Time to make CFM's files out of MCG's, against working on one proposal at a time. One core.

    python benchmarks/mcg.py [--proposals 2000] [--superpixels 800] [--size 375x500] [--repeat 3]

Proposals are made up: superpixels on a jittered grid, and for each proposal those inside a random ellipse. "decoding"
is boxes and 21 x 21 masks; "training file" is that, the comparison with 3 instances, and reading and writing all files.
The loop draws every proposal in full, as MNC's tools/prepare_mcg_maskdb.py does.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from scipy.spatial import cKDTree

from caffe_bridge import mcg, proposal_targets

MASK = 21
INSTANCES = 3


def made_up(size: tuple[int, int], kinds: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Superpixels [H, W] from 1, and the superpixels of each proposal."""
    rng = np.random.default_rng(0)
    points = rng.random((kinds, 2)) * size
    pixels = np.stack(np.mgrid[: size[0], : size[1]], -1).reshape(-1, 2)
    superpixels = cKDTree(points).query(pixels)[1].reshape(size).astype(np.int32) + 1
    labels = []
    while len(labels) < count:
        centre, radii = rng.random(2) * size, (0.03 + 0.3 * rng.random(2)) * size
        inside = np.flatnonzero((((points - centre) / radii) ** 2).sum(1) < 1) + 1
        inside = inside[np.isin(inside, superpixels)]
        if len(inside):
            labels.append(inside)
    return superpixels, labels


def decode_by_loop(superpixels: np.ndarray, labels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and masks, one proposal after the other."""
    boxes, masks = np.zeros((len(labels), 4), np.int64), np.zeros((len(labels), MASK, MASK), bool)
    for number, label in enumerate(labels):
        drawn = np.isin(superpixels, label)
        y, x = np.where(drawn)
        x1, y1, x2, y2 = boxes[number] = x.min(), y.min(), x.max(), y.max()
        cut = drawn[y1 : y2 + 1, x1 : x2 + 1].astype(float)
        masks[number] = cv2.resize(cut, (MASK, MASK), interpolation=cv2.INTER_NEAREST)
    return boxes, masks


def compare_by_loop(boxes: np.ndarray, masks: np.ndarray, gt_boxes: np.ndarray, gt_masks: list[np.ndarray]) -> None:
    """Overlap of masks with each instance and mask targets, one proposal after the other."""
    for box, mask in zip(boxes, masks):
        width, height = (box[2:] - box[:2] + 1).tolist()
        drawn = cv2.resize(mask.astype(float), (width, height)) >= proposal_targets.THRESHOLD
        for gt_box, gt_mask in zip(gt_boxes, gt_masks):
            low, high = np.maximum(box[:2], gt_box[:2]), np.minimum(box[2:], gt_box[2:]) + 1
            if (low >= high).any():
                continue
            ours, theirs = (
                drawn_in[low[1] - at[1] : high[1] - at[1], low[0] - at[0] : high[0] - at[0]]
                for drawn_in, at in ((drawn, box), (gt_mask, gt_box))
            )
            common = np.logical_and(ours, theirs).sum()
            _ = common / (drawn.sum() + gt_mask.sum() - common)
        target = np.zeros((height, width), np.float32)
        if (low < high).all():
            target[low[1] - box[1] : high[1] - box[1], low[0] - box[0] : high[0] - box[0]] = theirs
        _ = cv2.resize(target, (MASK, MASK)) >= proposal_targets.THRESHOLD


def seconds(call: Callable[[], object], repeat: int) -> float:
    """The shortest of several runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=2000)
    parser.add_argument("--superpixels", type=int, default=800)
    parser.add_argument("--size", default="375x500")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    height, width = map(int, args.size.split("x"))
    superpixels, labels = made_up((height, width), args.superpixels, args.proposals)
    gt_boxes, gt_small = decode_by_loop(superpixels, labels[:INSTANCES])
    sides = (gt_boxes[:, 2:] - gt_boxes[:, :2] + 1).tolist()
    gt_masks = [cv2.resize(mask.astype(np.uint8), side) > 0 for mask, side in zip(gt_small, sides)]
    classes = np.arange(1, INSTANCES + 1)

    with tempfile.TemporaryDirectory() as folder:
        source, target = (str(Path(folder) / name) for name in ("in.mat", "out.mat"))
        mcg.write(source, superpixels, labels)

        def decode_at_once() -> tuple[np.ndarray, np.ndarray]:
            return mcg.decode(mcg.group(superpixels, labels), MASK)

        for ours, theirs in zip(decode_at_once(), decode_by_loop(superpixels, labels)):
            np.testing.assert_array_equal(ours, theirs)

        def file_at_once() -> None:
            boxes, masks = mcg.decode(mcg.read(source), MASK)
            arrays = proposal_targets.for_training(boxes, masks, gt_boxes, gt_masks, classes)
            mcg.write_matlab(target, arrays)
            mcg.write_matlab(target, proposal_targets.mirrored(arrays, width))

        def file_by_loop() -> None:
            loaded = scipy.io.loadmat(source)
            boxes, masks = decode_by_loop(loaded["superpixels"], [cell[0][0] for cell in loaded["labels"]])
            compare_by_loop(boxes, masks, gt_boxes, gt_masks)
            arrays = {"boxes": boxes, "masks": masks, "mask_targets": masks}
            scipy.io.savemat(target, arrays)
            scipy.io.savemat(target, arrays)

        print(f"{platform.processor() or platform.machine()}, 1 core, {datetime.date.today()}")
        print(
            f"{args.proposals} proposals of {args.superpixels} superpixels, {args.size} pixels; seconds for an image\n"
        )
        print(f"{'':<16}{'at once':>10}{'one by one':>12}{'ratio':>8}")
        for what, at_once, by_loop in (
            ("decoding", decode_at_once, lambda: decode_by_loop(superpixels, labels)),
            ("training file", file_at_once, file_by_loop),
        ):
            ours, theirs = seconds(at_once, args.repeat), seconds(by_loop, 1)
            print(f"{what:<16}{ours:>10.3f}{theirs:>12.3f}{theirs / ours:>8.1f}")


if __name__ == "__main__":
    main()
