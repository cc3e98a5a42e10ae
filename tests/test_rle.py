"""COCO's run-length encoding against known vectors, and pycocotools where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_bridge import rle
from caffe_bridge.errors import CaffeError


def masks():
    random = np.random.RandomState(3)
    yield np.zeros((5, 7), bool)
    yield np.ones((5, 7), bool)
    yield np.ones((1, 1), bool)
    for height, width, share in ((1, 40, 0.5), (40, 1, 0.5), (33, 57, 0.1), (64, 48, 0.9)):
        yield random.uniform(size=(height, width)) < share
    large = np.zeros((400, 500), bool)
    large[37:350, 100:420] = True
    yield large


def test_runs_go_down_the_columns_and_start_with_zeros():
    assert rle.count_runs(np.array([[0, 0, 1], [0, 1, 1]])) == [3, 3]
    assert rle.count_runs(np.array([[1, 0], [1, 0]])) == [0, 2, 2]


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([], ""),
        ([0], "0"),
        ([15], "?"),
        ([16], "`0"),
        ([32], "P1"),
        ([35], "S1"),
        ([3, 3], "33"),
        ([0, 2, 2], "022"),
        ([100, 1000, 3], "T3Xo03"),
    ],
)
def test_known_strings(counts, text):
    assert rle.compress(counts) == text
    assert rle.decompress(text) == counts


def test_later_counts_are_differences():
    assert rle.compress([10, 20, 10, 20]) == rle.compress([10, 20, 10]) + "0"
    assert rle.compress([0, 20, 0, 19]) == rle.compress([0, 20, 0]) + "O"


@pytest.mark.parametrize("mask", list(masks()), ids=lambda mask: f"{mask.shape[0]}x{mask.shape[1]}")
def test_round_trip(mask):
    encoded = rle.encode(mask)
    assert encoded["size"] == list(mask.shape)
    assert np.array_equal(rle.decode(encoded), mask)
    assert np.array_equal(rle.decode({"size": encoded["size"], "counts": rle.count_runs(mask)}), mask)


@pytest.mark.parametrize("mask", list(masks()), ids=lambda mask: f"{mask.shape[0]}x{mask.shape[1]}")
def test_as_pycocotools(mask):
    reference = pytest.importorskip("pycocotools.mask")
    expected = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle.encode(mask) == {"size": list(expected["size"]), "counts": expected["counts"].decode("ascii")}


@pytest.mark.parametrize("text", ["P", "\x1f", "é", "P" * 20 + "0"])
def test_malformed_strings(text):
    with pytest.raises(CaffeError):
        rle.decompress(text)


def test_runs_that_do_not_add_up():
    with pytest.raises(CaffeError, match="add up to 9"):
        rle.decode({"size": [2, 2], "counts": [4, 5]})
