"""Pooling: maximum, average and stochastic."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from caffe_bridge import randomness, schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register

_MAX, _AVE, _STOCHASTIC = 0, 1, 2  # PoolingParameter.PoolMethod


class Windows(NamedTuple):
    """Pooling windows; each field is (height, width) in cells, `ceil` Caffe's rounding of the output size."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    ceil: bool = True

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Caffe's output size; only with padding is a last window dropped that starts beyond the image."""
        out = []
        for length, kernel, stride, pad in zip(size, self.kernel, self.stride, self.pad):
            room = length + 2 * pad - kernel
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            out.append(min(count, -(-(length + pad) // stride)) if any(self.pad) else count)
        return out[0], out[1]

    def fits_torch(self, size: tuple[int, int]) -> bool:
        """Whether torch, which pads by at most half a kernel and drops windows beyond the image, pools alike."""
        if any(2 * pad > kernel for pad, kernel in zip(self.pad, self.kernel)):
            return False
        if any(self.pad) or all(stride <= kernel for stride, kernel in zip(self.stride, self.kernel)):
            return True
        out = self.output_size(size)
        return all((count - 1) * stride < length for count, stride, length in zip(out, self.stride, size))

    def padded(self, images: torch.Tensor) -> torch.Tensor:
        """Images extended by zeros so that unpadded windows of the same number cover them exactly."""
        height, width = images.shape[2:]
        out = self.output_size((height, width))
        ends = [
            (count - 1) * stride + kernel - length - pad
            for count, stride, kernel, length, pad in zip(out, self.stride, self.kernel, (height, width), self.pad)
        ]
        return F.pad(images, [self.pad[1], max(ends[1], 0), self.pad[0], max(ends[0], 0)])


def max_pool(images: torch.Tensor, windows: Windows) -> torch.Tensor:
    """Maxima, Tensor[N, C, H, W] to Tensor[N, C, h, w].

    The gradient goes to a window's first maximum in row order. A window without a cell gives -FLT_MAX.
    """
    size = (images.shape[2], images.shape[3])
    # Compilers and exporters know torch's own operation, which is as fast where channels lie side by side.
    if not torch.compiler.is_compiling() and functional.has_kernel(images):
        if images.stride(1) != 1 or not windows.fits_torch(size):
            return functional.max_pool(images, *windows[:3], windows.output_size(size))
    return max_pool_indices(images, windows)[0]


def max_pool_indices(images: torch.Tensor, windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    """As `max_pool`, and where the maxima came from.

    Returns:
        Tensor[N, C, h, w] and int64 Tensor[N, C, h, w] of positions y * W + x, -1 for a window without a cell.
    """
    size = (images.shape[2], images.shape[3])
    if windows.fits_torch(size):
        pooled, index = F.max_pool2d(images, *windows[:3], ceil_mode=windows.ceil, return_indices=True)
        return pooled, index
    return functional.max_pool_indices(images, *windows[:3], windows.output_size(size))


def average_pool(images: torch.Tensor, windows: Windows) -> torch.Tensor:
    """Averages, Tensor[N, C, H, W] to Tensor[N, C, h, w].

    A window's sum is divided by its cells within the padded image: padding counts, what overhangs it does not.
    """
    size = (images.shape[2], images.shape[3])
    if windows.fits_torch(size):
        return F.avg_pool2d(images, *windows[:3], ceil_mode=windows.ceil)
    sums = F.avg_pool2d(windows.padded(images), windows.kernel, windows.stride, divisor_override=1)
    rows, columns = (
        _cells(*axis, device=images.device)
        for axis in zip(sums.shape[2:], windows.kernel, windows.stride, windows.pad, size)
    )
    return sums / (rows[:, None] * columns).to(sums.dtype)


def _cells(count: int, kernel: int, stride: int, pad: int, length: int, device: torch.device) -> torch.Tensor:
    """How many cells of the padded axis each of `count` windows covers, as Caffe counts: below 0 beyond its end."""
    starts = torch.arange(count, device=device) * stride - pad
    return (starts + kernel).clamp(max=length + pad) - starts


def stochastic_pool(images: torch.Tensor, windows: Windows, draw: bool) -> torch.Tensor:
    """Stochastic pooling of non-negative activations (Zeiler and Fergus, 2013), without padding.

    With `draw` (TRAIN), one cell of each window, chosen with probability proportional to its value; else their mean
    weighted by themselves, 0 where a window's sum is not positive.
    """
    out = windows.output_size((images.shape[2], images.shape[3]))
    cells = F.unfold(windows.padded(images), windows.kernel, stride=windows.stride)
    cells = cells.view(*images.shape[:2], windows.kernel[0] * windows.kernel[1], *out)
    total = cells.sum(2)
    if not draw:
        return torch.where(total > 0, cells.square().sum(2) / total, 0)
    uniform = torch.rand(total.shape, generator=randomness.generator(images.device), device=images.device)
    reached = cells.cumsum(2) >= (uniform * total).unsqueeze(2)
    chosen = reached.int().argmax(2, keepdim=True)
    return cells.gather(2, chosen).squeeze(2)


def read_windows(param: Any, size: tuple[int, int]) -> Windows:
    """The geometry a PoolingParameter describes, for images of `size` (height, width).

    Raises:
        LayerError: fields Caffe does not accept together, zero kernels or strides, or padding as wide as the kernel.
    """
    has = param.HasField
    sides_given = has("kernel_h") or has("kernel_w")
    if param.global_pooling:
        if has("kernel_size") or sides_given:
            raise LayerError("global_pooling takes the whole image; kernel_size must not be given")
        kernel = size
    elif has("kernel_size") == (has("kernel_h") and has("kernel_w")):
        raise LayerError("give kernel_size, or kernel_h and kernel_w")
    else:
        kernel = (param.kernel_size,) * 2 if has("kernel_size") else (param.kernel_h, param.kernel_w)
    pad, stride = (_pair(param, name) for name in ("pad", "stride"))
    if 0 in kernel or 0 in stride:
        raise LayerError(f"kernel {kernel} and stride {stride} must not be 0")
    if param.global_pooling and (any(pad) or stride != (1, 1)):
        raise LayerError("global_pooling goes with pad: 0 and stride: 1 only")
    if any(pad) and param.pool == _STOCHASTIC:
        raise LayerError("stochastic pooling takes no padding")
    if any(p >= k for p, k in zip(pad, kernel)):
        raise LayerError(f"pad {pad} must be smaller than the kernel {kernel}")
    ceil = param.round_mode == schema.PoolingParameter.CEIL and param.ceil_mode
    return Windows(kernel, stride, pad, ceil)


def _pair(param: Any, name: str) -> tuple[int, int]:
    """(NAME_h, NAME_w) if given, else NAME twice."""
    height, width = param.HasField(f"{name}_h"), param.HasField(f"{name}_w")
    if not height and not width:
        return (getattr(param, name),) * 2
    if param.HasField(name) or not (height and width):
        raise LayerError(f"give {name}, or {name}_h and {name}_w")
    return getattr(param, f"{name}_h"), getattr(param, f"{name}_w")


@register("Pooling")
class Pooling(Layer):
    """Pooling over the last two of four axes.

    Output sizes round up unless `round_mode: FLOOR`, or `ceil_mode: false` as some forks write it. MAX can have a
    second top, the positions y * W + x of the maxima within their plane. STOCHASTIC, which in Caffe runs on the GPU
    only, runs everywhere.
    """

    tops = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.pooling_param
        self.method = param.pool
        self.masked = len(self.param.top) > 1
        if self.masked and self.method != _MAX:
            raise LayerError("only MAX pooling has a second top, the mask")
        self._check_axes(bottom_shapes[0])
        self.whole_image = param.global_pooling
        self.windows = read_windows(param, (bottom_shapes[0][2], bottom_shapes[0][3]))

    @staticmethod
    def _check_axes(shape: Shape) -> None:
        if len(shape) != 4:
            raise LayerError(f"needs a 4-axis bottom (num, channels, height, width), not {tuple(shape)}")

    def _windows(self, size: tuple[int, int]) -> Windows:
        return self.windows._replace(kernel=size) if self.whole_image else self.windows

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        self._check_axes(shape)
        windows = self._windows((shape[2], shape[3]))
        out = windows.output_size((shape[2], shape[3]))
        if min(out) < 1:
            raise LayerError(f"kernel {windows.kernel} leaves no output: its size would be {out}")
        return [(*shape[:2], *out)] * len(self.param.top)

    def forward(self, bottom: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        self._check_axes(bottom.shape)
        if self.method == _AVE and self.whole_image:
            return bottom.mean((2, 3), keepdim=True)
        windows = self._windows((bottom.shape[2], bottom.shape[3]))
        if self.method == _AVE:
            return average_pool(bottom, windows)
        if self.method == _STOCHASTIC:
            return stochastic_pool(bottom, windows, draw=self.phase == "TRAIN")
        if not self.masked:
            return max_pool(bottom, windows)
        pooled, index = max_pool_indices(bottom, windows)
        return pooled, index.to(bottom.dtype)
