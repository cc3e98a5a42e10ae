"""Makes proposals for images that have none: superpixels, what merging them step by step gives, and neighbours' pairs.

They stand in for MCG's where those cannot be had. The neighbours that differ least are merged until one region is left.
Needs scikit-image. Source of the superpixels: Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation,
IJCV 2004.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from caffe_bridge.errors import CaffeError

MISSING = "making proposals needs scikit-image: pip install caffe-bridge[proposals]"

_SCALE, _SMOOTHING = 30.0, 0.8  # of the superpixels, on Lab colours in hundredths
_TRIES = 12
_LEAST, _MOST = 1e-3, 0.9  # shares of the image between which a proposal's area is


def propose(image: np.ndarray, count: int = 2000, superpixels: int = 250) -> tuple[np.ndarray, list[np.ndarray]]:
    """The proposals of an image.

    Two ways of measuring how much regions differ are followed: by the distance of their mean colours, and by that
    times their common size (Ward's criterion). Regions that stand alone longest before they are merged come first,
    then pairs of neighbours in the same order.

    Args:
        image: uint8 [H, W, 3], blue, green, red.
        count: most proposals to make.
        superpixels: most of them to make, as far as coarser ones can be had.

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
        labels = felzenszwalb(colours / 100, scale=_SCALE * 2**step, sigma=_SMOOTHING, min_size=smallest) + 1
        if labels.max() <= superpixels:
            break
    if labels.max() < 2:
        return labels, []
    ranked = [_merge(colours, labels, by_size) for by_size in (True, False)]
    kept: dict[bytes, np.ndarray] = {}
    areas = np.bincount(labels.ravel())
    for members in (*_in_turn(*(regions for regions, _ in ranked)), *_in_turn(*(pairs for _, pairs in ranked))):
        if _LEAST <= areas[members].sum() / labels.size <= _MOST:
            kept.setdefault(members.tobytes(), members)
        if len(kept) == count:
            break
    return labels, list(kept.values())


def _in_turn(*lists: list[np.ndarray]) -> Iterable[np.ndarray]:
    for position in range(max(map(len, lists))):
        yield from (each[position] for each in lists if position < len(each))


def _merge(colours: np.ndarray, labels: np.ndarray, by_size: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Regions that merging gives, and the pairs of neighbours met on the way: sorted superpixel numbers of each.

    Both come by how much longer a region stands alone than the merge that made it.
    """
    from skimage.graph import RAG, merge_hierarchical

    graph: Any = RAG(labels, connectivity=2)
    sizes = np.bincount(labels.ravel())
    sums = np.stack([np.bincount(labels.ravel(), channel.ravel()) for channel in np.moveaxis(colours, 2, 0)], 1)
    for number in graph.nodes:
        graph.nodes[number].update(labels=[number], size=sizes[number], sum=sums[number], born=0.0)
    for a, b, edge in graph.edges(data=True):
        edge["weight"] = _difference(graph.nodes[a], graph.nodes[b], by_size)
    regions: list[tuple[float, np.ndarray]] = []
    pairs: list[tuple[float, np.ndarray]] = []
    height = 0.0

    def absorb(graph: Any, source: int, target: int) -> None:
        nonlocal height
        a, b = graph.nodes[source], graph.nodes[target]
        height = max(height, graph[source][target]["weight"])
        for node, number, other in ((a, source, target), (b, target, source)):
            alone = (height - node["born"]) / (height + 1e-12)
            regions.append((alone, _sorted(node["labels"])))
            for neighbour in graph.neighbors(number):
                if neighbour != other:
                    pairs.append((alone, _sorted(node["labels"] + graph.nodes[neighbour]["labels"])))
        b.update(size=a["size"] + b["size"], sum=a["sum"] + b["sum"], born=height)

    def weigh(graph: Any, source: int, target: int, neighbour: int) -> dict[str, float]:
        return {"weight": _difference(graph.nodes[target], graph.nodes[neighbour], by_size)}

    merge_hierarchical(
        labels, graph, thresh=np.inf, rag_copy=False, in_place_merge=True, merge_func=absorb, weight_func=weigh
    )
    return _ranked(regions), _ranked(pairs)


def _ranked(scored: list[tuple[float, np.ndarray]]) -> list[np.ndarray]:
    return [members for _, members in sorted(scored, key=lambda each: -each[0])]


def _sorted(numbers: list[int]) -> np.ndarray:
    return np.sort(np.array(numbers, np.int32))


def _difference(a: dict[str, Any], b: dict[str, Any], by_size: bool) -> float:
    squared = float(((a["sum"] / a["size"] - b["sum"] / b["size"]) ** 2).sum())
    return squared * a["size"] * b["size"] / (a["size"] + b["size"]) if by_size else squared
