import json
import pickle

import pytest
import torch

from caffe_bridge import CaffeError, randomness
from caffe_bridge.stream import EpochOrder, Stream, restoring


def epochs(order, count):
    seen = []
    for _ in range(count):
        seen.append(order.current)
        order.advance()
    return seen


def test_a_stream_is_seeded_by_randomness_and_disturbs_nobody():
    randomness.seed(3)
    before = torch.get_rng_state()
    first = [Stream().below(1000) for _ in range(3)]
    assert torch.equal(before, torch.get_rng_state())
    randomness.seed(3)
    assert [Stream().below(1000) for _ in range(3)] == first and len(set(first)) == 3


@pytest.mark.parametrize("copy", ["state", "pickle"])
def test_a_stream_goes_on_from_its_state(copy):
    stream = Stream()
    stream.below(10)
    if copy == "state":
        other = Stream()
        other.set_state(json.loads(json.dumps(stream.state())))
    else:
        other = pickle.loads(pickle.dumps(stream))
    assert [stream.below(1 << 30) for _ in range(5)] == [other.below(1 << 30) for _ in range(5)]


def test_draws_are_uniform():
    stream = Stream()
    counts = torch.bincount(torch.tensor([stream.below(5) for _ in range(5000)]), minlength=5)
    assert len(counts) == 5 and bool((counts - 1000).abs().max() < 150)  # five standard deviations


def test_order_without_a_stream():
    assert epochs(EpochOrder(3), 8) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_every_epoch_is_shuffled_anew_and_complete():
    seen = epochs(EpochOrder(20, Stream()), 60)
    parts = [seen[i : i + 20] for i in (0, 20, 40)]
    assert all(sorted(part) == list(range(20)) for part in parts)
    assert parts[0] != parts[1] != parts[2] and parts[0] != list(range(20))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("done", [0, 4, 6, 7, 13, 14])
def test_order_goes_on_from_its_state(shuffled, done):
    order = EpochOrder(7, Stream() if shuffled else None)
    epochs(order, done)
    other = EpochOrder(7, Stream() if shuffled else None)
    other.set_state(json.loads(json.dumps(order.state())))
    assert epochs(other, 20) == epochs(order, 20)


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        {"count": 8, "position": 0, "stream": None},
        {"count": 7, "position": 7, "stream": None},
        {"count": 7, "position": -1, "stream": None},
        {"count": 7, "position": 1, "stream": "!"},
        {"count": 7, "position": 1, "stream": "AAAA"},
        {"count": 7, "position": 1, "stream": 5},
    ],
)
def test_states_that_do_not_fit(state):
    with pytest.raises(CaffeError, match="position in the data"), restoring():
        EpochOrder(7, Stream()).set_state(state)
