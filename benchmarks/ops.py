"""Time the native operations against their pure-torch twins, and torchvision's where it has the same one.

    python benchmarks/ops.py [--device cpu] [--rois 300] [--channels 512] [--repeat 5]

Sizes are MNC-5's at test time: a 600 x 1000 image, 38 x 63 feature cells at 1/16. Milliseconds, best of the repeats;
"torchvision" is its roi_align without half-pixel offsets and with one sample per bin (for warping), roi_pool, nms.
Pooling and normalisation are AlexNet's first, for ten images; their pure twins are torch's own operations.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from caffe_bridge import native
from caffe_bridge.layers import functional as F

try:
    import torchvision as tv
except ImportError:
    tv = None

HEIGHT, WIDTH, SCALE = 38, 63, 1 / 16


def random_boxes(count: int) -> torch.Tensor:
    """Boxes of 32 to 400 pixels inside the image."""
    size = 32 + torch.rand(count, 2) * 368
    start = torch.rand(count, 2) * (torch.tensor([1000.0, 600.0]) - size).clamp(min=1)
    return torch.cat([start, start + size], 1).clamp(max=999)


def milliseconds(call: Callable[[], object], repeat: int, device: str) -> float:
    best = float("inf")
    for _ in range(repeat + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best * 1000


def problems(rois: int, channels: int, device: str) -> dict[str, tuple[Callable[[], object], Callable | None]]:
    """What is timed: ours, and torchvision's where importable."""
    features = torch.randn(1, channels, HEIGHT, WIDTH).relu().to(device).requires_grad_()
    boxes = random_boxes(rois)
    regions = torch.cat([torch.zeros(rois, 1), boxes], 1).to(device)
    moving = regions.clone().requires_grad_()
    boxes, masks = boxes.to(device), torch.rand(rois, 1, 21, 21, device=device)
    scores = torch.rand(rois, 21, device=device).mul(6).softmax(1)
    proposals, objectness = random_boxes(6000).to(device), torch.rand(6000, device=device)
    pooled = torch.randn(rois, channels, 14, 14, device=device, requires_grad=True)
    score_maps = torch.randn(1, 21 * 49, HEIGHT, WIDTH, device=device, requires_grad=True)
    small = torch.rand(rois, 1, 14, 14, device=device, requires_grad=True)
    images = torch.randn(10, 96, 55, 55, device=device, requires_grad=True)
    looked_at = images.detach()

    def trained(forward: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> Callable[[], object]:
        grad = torch.randn_like(forward())
        return lambda: torch.autograd.grad(forward(), inputs, grad)

    def align(size: int) -> Callable[[], torch.Tensor] | None:
        return tv and (lambda: tv.ops.roi_align(features, regions, size, SCALE, 1))

    def warp(size: int, at: torch.Tensor = regions) -> Callable[[], torch.Tensor]:
        return lambda: F.roi_warping(features, at, size, SCALE)

    def pool() -> torch.Tensor:
        return F.roi_pooling(features, regions, 7, SCALE)

    def psroi() -> torch.Tensor:
        return F.psroi_pooling(score_maps, regions, 21, 7, SCALE)

    def max_pool(of: torch.Tensor = images) -> torch.Tensor:
        return F.max_pool(of, (3, 3), (2, 2), (0, 0), (27, 27))

    def lrn(of: torch.Tensor = images) -> torch.Tensor:
        return F.lrn(of, 5, 1e-4, 0.75, 1.0)

    tv_pool = tv and (lambda: tv.ops.roi_pool(features, regions, 7, SCALE))
    tv_psroi = tv and (lambda: tv.ops.ps_roi_pool(score_maps, regions, 7, SCALE))
    return {
        "roi_warping 14x14": (warp(14), align(14)),
        "roi_warping 28x28": (warp(28), align(28)),
        "roi_warping 14x14, forward and backward": (trained(warp(14), features), tv and trained(align(14), features)),
        "  the same, and to the RoIs": (trained(warp(14, moving), features, moving), None),
        "roi_pooling 7x7": (pool, tv_pool),
        "roi_pooling 7x7, forward and backward": (trained(pool, features), tv and trained(tv_pool, features)),
        "psroi_pooling 7x7": (psroi, tv_psroi),
        "psroi_pooling 7x7, forward and backward": (trained(psroi, score_maps), tv and trained(tv_psroi, score_maps)),
        "mask_pooling, forward and backward": (trained(lambda: F.mask_pooling(pooled, small), pooled, small), None),
        "mask_resize 21 to 14": (lambda: F.mask_resize(masks, 14), None),
        "max_pool 3x3, stride 2": (lambda: max_pool(looked_at), None),
        "max_pool 3x3, stride 2, forward and backward": (trained(max_pool, images), None),
        "lrn over 5 channels": (lambda: lrn(looked_at), None),
        "lrn over 5 channels, forward and backward": (trained(lrn, images), None),
        "nms of 6000 at 0.7": (
            lambda: F.nms(proposals, objectness, 0.7),
            tv and (lambda: tv.ops.nms(proposals, objectness, 0.7)),
        ),
        "mask_voting, 20 classes": (lambda: F.mask_voting(boxes, masks, scores, (600, 1000)), None),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rois", type=int, default=300)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.cuda.get_device_name() if args.device == "cuda" else cpu_model()
    print(f"{device}, {torch.get_num_threads()} threads, {datetime.date.today()}")
    print(f"torch {torch.__version__}, torchvision {tv.__version__ if tv else 'absent'}, kernels {native.status()}")
    print(f"{args.rois} RoIs, {args.channels} channels, {HEIGHT} x {WIDTH} cells; milliseconds\n")
    print(f"{'':46}{'native':>9}{'pure':>9}{'ratio':>7}{'torchvision':>13}")
    for name, (ours, theirs) in problems(args.rois, args.channels, args.device).items():
        fast = milliseconds(ours, args.repeat, args.device)
        with F.pure_torch():
            slow = milliseconds(ours, 1, args.device)
        other = f"{milliseconds(theirs, args.repeat, args.device):13.1f}" if theirs else f"{'-':>13}"
        print(f"{name:46}{fast:9.1f}{slow:9.1f}{slow / fast:7.1f}{other}", flush=True)


if __name__ == "__main__":
    main()
