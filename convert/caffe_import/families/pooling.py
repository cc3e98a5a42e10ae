"""Pooling, with the windows that the source has: Caffe rounds their number up and pads both ends alike."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from caffe_bridge.convert.caffe_import.families.linear_maps import mapped
from caffe_bridge.convert.caffe_import.families.rearrangement import reshaped, sliced
from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.powers import powered
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.resampling import chosen
from caffe_bridge.convert.caffe_import.writer import NetWriter
from caffe_bridge.layers.base import Shape


class _Axis(NamedTuple):
    """Windows along one axis: the source's, and what Caffe's Pooling makes of it.

    Attributes:
        size, kernel, stride, begin, wanted: cells of the image, and the source's windows.
        pad: Caffe's padding.
        front: how many of Caffe's windows come before the first wanted one.
        made: how many windows Caffe has.
    """

    size: int
    kernel: int
    stride: int
    begin: int
    wanted: int
    pad: int
    front: int
    made: int


def _caffe_count(size: int, kernel: int, stride: int, pad: int, floor: bool, clips: bool) -> int:
    room = size + 2 * pad - kernel
    count = (room // stride if floor else -(-room // stride)) + 1
    return count - 1 if clips and (count - 1) * stride >= size + pad else count


def _placed(size: int, kernel: int, stride: int, begin: int, wanted: int, floor: bool, clips: bool) -> _Axis | None:
    """The least padding with which Caffe's windows contain the wanted ones."""
    for front in range(kernel):
        pad = begin + front * stride
        if pad >= kernel:
            return None
        count = _caffe_count(size, kernel, stride, pad, floor, clips or pad > 0)
        if count >= wanted + front:
            return _Axis(size, kernel, stride, begin, wanted, pad, front, count)
    return None


def _geometry(writer: NetWriter, node: Node, shape: Shape, wanted: Shape) -> tuple[list[_Axis], bool]:
    """The axes, and whether to round down."""
    kernel, stride, begin = _row(node, "kernel", 1), _row(node, "stride", 1), _row(node, "begin", 0)
    rows = list(zip(shape[2:], kernel, stride, begin, wanted[2:]))
    clips = any(row[3] for row in rows)
    for floor in (False, True) if writer.dialect.floor else (False,):
        found = [_placed(*row, floor, clips) for row in rows]
        axes = [axis for axis in found if axis is not None]
        exact = len(axes) == len(found) and all(axis.made == axis.wanted for axis in axes)
        if exact:
            return axes, floor
    found = [_placed(*row, False, clips) for row in rows]
    axes = [axis for axis in found if axis is not None]
    if len(axes) < len(found):
        raise Unsupported(
            f"pads by {node['begin']} and {node['end']} at kernel {node['kernel']}, more than Caffe's Pooling can",
            "pad in a step of its own",
        )
    return axes, False


def _row(node: Node, attribute: str, lacking: int) -> tuple[int, ...]:
    """An attribute for two spatial axes, the first of which may be lacking."""
    row = tuple(node[attribute])
    return (lacking, *row) if len(row) == 1 else row


def _pooled(writer: NetWriter, node: Node, bottom: str, method: str) -> tuple[str, list[_Axis]]:
    """Pooling with the source's windows of an image of one or two axes, which becomes one of two."""
    shape, wanted = node.inputs[0].shape, node.output.shape
    if len(shape) == 3:
        shape, wanted = (*shape[:2], 1, shape[2]), (*wanted[:2], 1, wanted[2])
        bottom = reshaped(writer, bottom, shape, "image")
    elif len(shape) != 4:
        raise Unsupported(f"pools {len(shape) - 2} axes", "Caffe's Pooling has two")
    if writer.dialect.clips_each:
        bottom = _used(writer, node, bottom, wanted)
        shape = writer.shape(bottom)
    axes, floor = _geometry(writer, node, shape, wanted)
    crops = any(axis.made != axis.wanted for axis in axes)
    param: dict[str, Any] = {"pool": method, **_sizes(axes)}
    if floor:
        param["round_mode"] = "FLOOR"
    made = (*shape[:2], *(axis.made for axis in axes))
    top = writer.add("Pooling", [bottom], made, "all" if crops else "", pooling_param=param)
    for axis, place in enumerate(axes, 2):
        if place.made != place.wanted:
            top = sliced(writer, top, axis, place.front, place.front + place.wanted, "rows" if axis == 2 else "columns")
    return top, axes


def _used(writer: NetWriter, node: Node, blob: str, wanted: Shape) -> str:
    """The image without what no window reads along axes without padding, behind which a window could begin."""
    kernel, stride, begin = _row(node, "kernel", 1), _row(node, "stride", 1), _row(node, "begin", 0)
    for axis, (window, step, pad) in enumerate(zip(kernel, stride, begin), 2):
        needed = (wanted[axis] - 1) * step + window
        if not pad and step > window and needed < writer.shape(blob)[axis]:
            blob = sliced(writer, blob, axis, 0, needed, f"axis{axis}")
    return blob


def _sizes(axes: list[_Axis]) -> dict[str, int]:
    """PoolingParameter's kernel, stride and pad, once if equal."""
    param: dict[str, Any] = {}
    for name, key, default in (("kernel", "kernel_size", None), ("stride", "stride", 1), ("pad", "pad", 0)):
        first, second = (getattr(axis, name) for axis in axes)
        if first != second:
            param[f"{name}_h"], param[f"{name}_w"] = first, second
        elif first != default:
            param[key] = first
    return param


@emits("max_pool")
def max_pool(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Pooling; windows that Caffe has besides are cut off, by round_mode or by Slice. With dilation: Eltwise (MAX)."""
    if any(step != 1 for step in node["dilation"]):
        return _dilated(writer, node, bottoms[0])
    top, _ = _pooled(writer, node, bottoms[0], "MAX")
    return reshaped(writer, top, node.output.shape, "plain")


def _dilated(writer: NetWriter, node: Node, blob: str) -> str:
    """The largest of as many choices of cells as the kernel has, along one axis after the other."""
    for i in reversed(range(len(node["kernel"]))):
        kernel, stride, begin, dilation = (node[key][i] for key in ("kernel", "stride", "begin", "dilation"))
        axis, shape = 2 + i, writer.shape(blob)
        size, count = shape[axis], node.output.shape[axis]
        made = (*shape[:axis], count, *shape[axis + 1 :])
        taps = []
        for tap in range(kernel):
            cells = np.arange(count) * stride - begin + tap * dilation
            # In place of one in the padding, another cell of the window.
            cells += np.maximum(0, -(cells // dilation)) * dilation
            cells -= np.maximum(0, -((size - 1 - cells) // dilation)) * dilation
            if cells.min() < 0:
                raise Unsupported("has windows without a cell of the image")
            taps.append(mapped(writer, blob, {axis: chosen(size, cells.tolist())}, f"tap{tap}"))
        ending = "" if i == 0 else f"axis{axis}"
        blob = writer.add("Eltwise", taps, made, ending, eltwise_param={"operation": "MAX"}) if kernel > 1 else taps[0]
    return blob


@emits("avg_pool")
def avg_pool(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Pooling (AVE), and a factor for each place where Caffe divides by another number of cells."""
    top, axes = _pooled(writer, node, bottoms[0], "AVE")
    ends = (0, *node["end"]) if len(node["end"]) == 1 else node["end"]
    ratio = np.ones(())
    for axis, end in zip(axes, ends):
        start = np.arange(axis.wanted) * axis.stride - axis.begin
        stop = start + axis.kernel
        # Counted from the front, Caffe's windows of this axis begin where the source's do.
        divisor = np.minimum(stop, axis.size + axis.pad) - start
        if node["divisor"] is not None:
            wanted = np.ones(axis.wanted)
        elif node["padded"]:
            wanted = np.minimum(stop, axis.size + end) - start
        else:
            wanted = np.minimum(stop, axis.size) - np.maximum(start, 0)
        if (wanted < 1).any():
            raise Unsupported("has windows without a cell of the image")
        ratio = np.multiply.outer(ratio, divisor / wanted)
    if node["divisor"] is not None:
        ratio = ratio / node["divisor"]
    if (ratio == 1).all():
        pass
    elif (ratio == ratio.flat[0]).all():
        top = powered(writer, top, "divisor", scale=float(ratio.flat[0]))
    else:
        param: dict[str, Any] = {"axis": 2, "num_axes": 2}
        top = writer.add("Scale", [top], writer.shape(top), "divisor", [ratio.astype(np.float32)], scale_param=param)
    return reshaped(writer, top, node.output.shape, "plain")


# -- reductions ------------------------------------------------------------------------------------------


@emits("reduce")
def reduce(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Global Pooling, Reduction, a Convolution of ones over channels, or Pooling of a reshaped blob."""
    kind, top = node["kind"], bottoms[0]
    shape = writer.shape(top)
    if kind == "min":
        top = powered(writer, top, "negative", scale=-1)
    elif kind == "abs" and not (_is_tail(node["axes"], shape) and writer.dialect.has("Reduction")):
        kind, top = "sum", writer.add("AbsVal", [top], shape, "abs")
    elif kind == "square" and not (_is_tail(node["axes"], shape) and writer.dialect.has("Reduction")):
        kind, top = "sum", powered(writer, top, "square", power=2)
    runs = _runs(node["axes"])
    if len(runs) > 1 and kind in ("abs", "square"):
        raise Unsupported("sums over axes that are not side by side")
    for i, run in enumerate(runs):
        last = i == len(runs) - 1 and kind != "min"
        top = _reduced(writer, top, kind, run, "" if last else f"over{run[0]}")
    if kind == "min":
        top = powered(writer, top, "", scale=-1)
    return top


def _is_tail(axes: tuple[int, ...], shape: Shape) -> bool:
    return axes == tuple(range(axes[0], len(shape)))


def _runs(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Axes in groups of neighbours, the last first."""
    runs: list[list[int]] = []
    for axis in axes:
        if runs and axis == runs[-1][-1] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return [tuple(run) for run in reversed(runs)]


def _reduced(writer: NetWriter, bottom: str, kind: str, axes: tuple[int, ...], suffix: str) -> str:
    shape = writer.shape(bottom)
    made = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    count = math.prod(shape[axis] for axis in axes)
    pools = kind in ("mean", "max", "min") or (kind == "sum" and not writer.dialect.has("Reduction"))
    if len(shape) == 4 and set(axes) <= {2, 3} and pools:
        param: dict[str, Any] = {"pool": "MAX" if kind in ("max", "min") else "AVE"}
        if len(axes) == 2:
            param["global_pooling"] = True
        else:
            param["kernel_h"], param["kernel_w"] = (shape[axis] if axis in axes else 1 for axis in (2, 3))
        if kind != "sum":
            return writer.add("Pooling", [bottom], made, suffix, pooling_param=param)
        top = writer.add("Pooling", [bottom], made, "mean", pooling_param=param)
        return powered(writer, top, suffix, scale=count)
    if _is_tail(axes, shape) and kind not in ("max", "min") and writer.dialect.has("Reduction"):
        names = {"sum": "SUM", "mean": "MEAN", "abs": "ASUM", "square": "SUMSQ"}
        param = {"operation": names[kind], "axis": axes[0]}
        top = writer.add("Reduction", [bottom], shape[: axes[0]], suffix, reduction_param=param)
        return reshaped(writer, top, made, "axes")
    if axes == (1,) and kind in ("sum", "mean") and len(shape) == 4:
        weight = np.full((1, shape[1], 1, 1), 1 if kind == "sum" else 1 / count, np.float32)
        param = {"num_output": 1, "bias_term": False, "kernel_size": [1]}
        return writer.add("Convolution", [bottom], made, suffix, [weight], convolution_param=param)
    first, last = axes[0], axes[-1]
    images, channels = (shape[0], math.prod(shape[1:first])) if first else (1, 1)
    post = math.prod(shape[last + 1 :])
    rows = reshaped(writer, bottom, (images, channels, count, post), "rows")
    param = {"pool": "MAX" if kind in ("max", "min") else "AVE", "kernel_h": count, "kernel_w": 1}
    top = writer.add("Pooling", [rows], (images, channels, 1, post), suffix, pooling_param=param)
    if kind == "sum":
        top = powered(writer, top, "sum", scale=count)
    return reshaped(writer, top, made, "axes")
