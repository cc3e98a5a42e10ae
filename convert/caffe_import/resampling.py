"""Resizing, padding and choosing along one axis as matrices (out, in)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from caffe_bridge.convert.caffe_import.problems import Unsupported

LARGEST = 1 << 24
"""Elements of a matrix above which resizing is refused."""


def chosen(size: int, positions: Sequence[int]) -> np.ndarray:
    """Row i takes position i; -1 takes nothing."""
    matrix = empty(len(positions), size)
    for row, position in enumerate(positions):
        if position >= 0:
            matrix[row, position] = 1
    return matrix


def check_size(rows: int, columns: int) -> None:
    """Raise Unsupported for a matrix that would be too large."""
    if rows < 1 or columns < 1 or rows * columns > LARGEST:
        raise Unsupported(f"would need a matrix of {rows} x {columns}", "resize in smaller steps, or smaller images")


def empty(rows: int, columns: int) -> np.ndarray:
    """Zeros. Raises Unsupported where they would be too many."""
    check_size(rows, columns)
    return np.zeros((rows, columns), np.float32)


def nearest(size: int, positions: np.ndarray, rounding: str) -> np.ndarray:
    """The cell nearest to each position; `rounding` is ONNX's nearest_mode."""
    rounded = {
        "round_prefer_floor": np.ceil(positions - 0.5),
        "round_prefer_ceil": np.floor(positions + 0.5),
        "floor": np.floor(positions),
        "ceil": np.ceil(positions),
    }
    if rounding not in rounded:
        raise Unsupported(f"rounds by '{rounding}'")
    return chosen(size, np.clip(rounded[rounding], 0, size - 1).astype(int).tolist())


def interpolated(size: int, positions: np.ndarray, cubic: float | None = None) -> np.ndarray:
    """Linear interpolation at each position, or cubic with that coefficient (-0.75 in torch); edges are repeated."""
    matrix = empty(len(positions), size)
    first = np.floor(positions).astype(int)
    rest = positions - first
    if cubic is None:
        taps = {0: 1 - rest, 1: rest}
    else:
        a = cubic
        near: Callable[[np.ndarray], np.ndarray] = lambda t: ((a + 2) * t - (a + 3)) * t * t + 1  # noqa: E731
        far: Callable[[np.ndarray], np.ndarray] = lambda t: ((a * t - 5 * a) * t + 8 * a) * t - 4 * a  # noqa: E731
        taps = {-1: far(rest + 1), 0: near(rest), 1: near(1 - rest), 2: far(2 - rest)}
    rows = np.arange(len(positions))
    for offset, weights in taps.items():
        np.add.at(matrix, (rows, np.clip(first + offset, 0, size - 1)), weights)
    return matrix


def positions(size: int, wanted: int, scale: float, mode: str) -> np.ndarray:
    """Where in the input each output cell lies, by ONNX's coordinate_transformation_mode; `scale` is wanted / size.

    torch_nearest and torch_nearest_exact are what torch takes the floor of.
    """
    cells = np.arange(wanted, dtype=np.float64)
    if mode in ("torch_nearest", "torch_nearest_exact"):
        # As torch computes it, since what lies between two cells is decided by rounding.
        offset = np.float32(0.5 if mode == "torch_nearest_exact" else 0)
        return (cells.astype(np.float32) + offset) * np.float32(1 / scale)
    if mode == "align_corners":
        return cells * ((size - 1) / (wanted - 1) if wanted > 1 else 0)
    if mode == "asymmetric":
        return cells / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and wanted > 1):
        return (cells + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return cells * 0
    if mode == "half_pixel_symmetric":
        adjusted = wanted / (scale * size)
        centre = size / 2
        return centre * (1 - adjusted) + (cells + 0.5) / scale - 0.5
    raise Unsupported(f"has the coordinate transformation '{mode}'")


def padded(size: int, begin: int, end: int, mode: str) -> np.ndarray:
    """Padding by repeating the edge, reflecting (without the edge) or wrapping around."""
    check_size(begin + size + end, size)
    cells = np.arange(-begin, size + end)
    if mode in ("edge", "replicate"):
        found = np.clip(cells, 0, size - 1)
    elif mode == "reflect":
        period = max(1, 2 * (size - 1))
        found = np.abs((cells + size - 1) % period - (size - 1))
    elif mode in ("wrap", "circular"):
        found = cells % size
    else:
        raise Unsupported(f"pads by '{mode}'")
    return chosen(size, found.tolist())


def adaptive_means(size: int, wanted: int) -> np.ndarray:
    """torch's adaptive average pooling: the mean of cells floor(i size / wanted) to ceil((i + 1) size / wanted)."""
    matrix = empty(wanted, size)
    for row in range(wanted):
        start, stop = row * size // wanted, -(-(row + 1) * size // wanted)
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix


def summed(size: int, exclusive: bool = False, reverse: bool = False) -> np.ndarray:
    """Sums up to each place, without its own value if exclusive, from the end if reverse."""
    matrix = empty(size, size)
    for row in range(size):
        matrix[row, : row if exclusive else row + 1] = 1
    return matrix[::-1, ::-1] if reverse else matrix


def adaptive_windows(size: int, wanted: int) -> list[np.ndarray]:
    """Choices of cells that together are the windows of adaptive pooling; shorter ones have their last cell twice."""
    check_size(wanted, size)
    starts = [row * size // wanted for row in range(wanted)]
    stops = [-(-(row + 1) * size // wanted) for row in range(wanted)]
    longest = max(stop - start for start, stop in zip(starts, stops))
    return [chosen(size, [min(start + tap, stop - 1) for start, stop in zip(starts, stops)]) for tap in range(longest)]


def repetition(matrix: np.ndarray) -> int:
    """How many times each cell is repeated, if that is what the matrix does, else 0."""
    rows, columns = matrix.shape
    times = rows // columns
    return times if rows % columns == 0 and np.array_equal(matrix, np.eye(columns).repeat(times, axis=0)) else 0


def aligns_corners(matrix: np.ndarray) -> bool:
    """Whether the matrix interpolates linearly with the corners in place."""
    wanted, size = matrix.shape
    return np.allclose(matrix, interpolated(size, positions(size, wanted, 1, "align_corners")), atol=1e-6)
