"""Makes proposals for images that have none: superpixels, what merging them step by step gives, and neighbours' pairs.

They stand in for MCG's where those cannot be had. Needs scikit-image. Sources: Felzenszwalb and Huttenlocher, Efficient
Graph-Based Image Segmentation, IJCV 2004 (the superpixels); Uijlings et al., Selective Search for Object Recognition,
IJCV 2013 (merging by several measures, among them common histograms and boxes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.ndimage

from caffe_bridge.errors import CaffeError

MISSING = "making proposals needs scikit-image: pip install caffe-bridge[proposals]"
MOST_SUPERPIXELS = 1000

_SCALE, _SMOOTHING = 60.0, 0.8  # of the superpixels, on Lab colours in hundredths
_TRIES = 12
_BINS = 12  # of each channel's histogram
_CHANNELS = ((0, 100), (-80, 80), (-80, 80))  # what the histograms of Lab colours span
_LEAST, _MOST = 1e-3, 0.9  # shares of the image between which a proposal's area is


def propose(image: np.ndarray, count: int = 2000, superpixels: int = 250) -> tuple[np.ndarray, list[np.ndarray]]:
    """The proposals of an image.

    The neighbours that differ least are merged until one region is left, three times: by the distance of their mean
    colours and their common size (Ward's criterion), by the size of the box around both, and by that box and what
    their histograms of colours have in common. Regions that are merged last come first, then pairs of neighbours in
    the same order.

    Args:
        image: uint8 [H, W, 3], blue, green, red.
        count: most proposals to make.
        superpixels: most of them to make, as far as coarser ones can be had; 1 to MOST_SUPERPIXELS.

    Returns:
        int [H, W], superpixel numbers from 1; and the numbers of those that make up each proposal, best first.

    Raises:
        CaffeError: scikit-image is missing.
    """
    try:
        from skimage.color import rgb2lab
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise CaffeError(MISSING) from error
    colours = rgb2lab(np.ascontiguousarray(image[:, :, ::-1]))
    smallest = max(2, colours.shape[0] * colours.shape[1] // (8 * superpixels))
    for step in range(_TRIES):
        labels = felzenszwalb(colours / 100, scale=_SCALE * 2**step, sigma=_SMOOTHING, min_size=smallest)
        if labels.max() < superpixels:
            break
    if labels.max() < 1:
        return labels + 1, []
    hierarchies = [_Hierarchy(colours, labels, unlike) for unlike in (_by_colour, _by_box, _by_box_and_colours)]
    areas = np.bincount(labels.ravel())
    kept: dict[bytes, np.ndarray] = {}
    regions = _in_turn(*(each.regions() for each in hierarchies))
    pairs = _in_turn(*(each.pairs() for each in hierarchies))
    for members in (row for part in (regions, pairs) for row in part):
        if _LEAST <= areas[members].sum() / labels.size <= _MOST:
            kept.setdefault(members.tobytes(), np.flatnonzero(members) + 1)
        if len(kept) == count:
            break
    return labels + 1, list(kept.values())


def _in_turn(*iterators: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    waiting = list(iterators)
    while waiting:
        for each in list(waiting):
            row = next(each, None)
            if row is None:
                waiting.remove(each)
            else:
                yield row


class _Regions:
    """Areas, mean Lab colours, histograms and boxes of regions, which start as superpixels."""

    def __init__(self, colours: np.ndarray, labels: np.ndarray):
        flat = labels.ravel()
        self.total = float(labels.size)
        self.sizes = np.bincount(flat).astype(float)
        channels = [channel.ravel() for channel in np.moveaxis(colours, 2, 0)]
        self.colours = np.stack([np.bincount(flat, channel) for channel in channels], 1) / self.sizes[:, None]
        counts = []
        for channel, (low, high) in zip(channels, _CHANNELS):
            bins = ((channel - low) * (_BINS / (high - low))).astype(int).clip(0, _BINS - 1)
            counts.append(np.bincount(flat * _BINS + bins, minlength=len(self.sizes) * _BINS).reshape(-1, _BINS))
        self.histograms = np.concatenate(counts, 1) / (len(channels) * self.sizes[:, None])
        boxes = [(y.start, x.start, y.stop, x.stop) for y, x in scipy.ndimage.find_objects(labels + 1)]
        self.low, self.high = np.array(boxes).reshape(-1, 2, 2).swapaxes(0, 1)

    def merge(self, a: int, b: int) -> None:
        """Make region b of both."""
        share = self.sizes[a] / (self.sizes[a] + self.sizes[b])
        for values in (self.colours, self.histograms):
            values[b] += share * (values[a] - values[b])
        self.sizes[b] += self.sizes[a]
        self.low[b] = np.minimum(self.low[a], self.low[b])
        self.high[b] = np.maximum(self.high[a], self.high[b])


_Measure = Callable[[_Regions, int, np.ndarray], np.ndarray]


def _by_colour(regions: _Regions, one: int, others: np.ndarray) -> np.ndarray:
    squared = ((regions.colours[others] - regions.colours[one]) ** 2).sum(1)
    return squared / (1 / regions.sizes[others] + 1 / regions.sizes[one])


def _by_box(regions: _Regions, one: int, others: np.ndarray) -> np.ndarray:
    low = np.minimum(regions.low[others], regions.low[one])
    high = np.maximum(regions.high[others], regions.high[one])
    return (high - low).prod(1) / regions.total


def _by_box_and_colours(regions: _Regions, one: int, others: np.ndarray) -> np.ndarray:
    common = np.minimum(regions.histograms[others], regions.histograms[one]).sum(1)
    return _by_box(regions, one, others) - common


class _Hierarchy:
    """What merging superpixels until one region is left gives. Regions are rows of booleans [n], their superpixels."""

    def __init__(self, colours: np.ndarray, labels: np.ndarray, unlike: _Measure):
        self._merged: list[tuple[np.ndarray, np.ndarray]] = []  # each region when it is merged, and its neighbours
        state = _Regions(colours, labels)
        n = len(state.sizes)
        members = np.eye(n, dtype=bool)
        beside = _neighbours(labels, n)
        table = np.full((n, n), np.inf)
        for i in range(n):
            near = np.flatnonzero(beside[i])
            table[i, near] = unlike(state, i, near)
        for _ in range(n - 1):
            a, b = divmod(int(table.argmin()), n)
            for one, other in ((a, b), (b, a)):
                near = np.flatnonzero(beside[one])
                self._merged.append((members[one].copy(), members[near[near != other]]))
            members[b] |= members[a]
            state.merge(a, b)
            beside[b] |= beside[a]
            beside[b, b] = False
            beside[:, b], beside[a], beside[:, a] = beside[b], False, False
            table[[a, b]] = table[:, [a, b]] = np.inf
            near = np.flatnonzero(beside[b])
            table[b, near] = table[near, b] = unlike(state, b, near)
        self._merged.reverse()

    def regions(self) -> Iterator[np.ndarray]:
        """Every region but the whole image, the one merged last first."""
        return (row for row, _ in self._merged)

    def pairs(self) -> Iterator[np.ndarray]:
        """Each of them with each neighbour it had when it was merged with another one."""
        return (row | other for row, others in self._merged for other in others)


def _neighbours(labels: np.ndarray, count: int) -> np.ndarray:
    """Whether regions touch, diagonally too: bool [count, count]."""
    beside = np.zeros((count, count), bool)
    for a, b in (
        (labels[1:], labels[:-1]),
        (labels[:, 1:], labels[:, :-1]),
        (labels[1:, 1:], labels[:-1, :-1]),
        (labels[1:, :-1], labels[:-1, 1:]),
    ):
        beside[a, b] = True
    beside |= beside.T
    np.fill_diagonal(beside, False)
    return beside
