"""Several processes at one run, over gloo: the same numbers as one process makes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from forked import fork_two
from small_run import PROTOTXT, SmallRun, finish, read_all, torchrun

from caffe_bridge import config, definition
from caffe_bridge.cli import run
from caffe_bridge.datasets import get_imdb
from caffe_bridge.distributed import Workers, _buckets, workers
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers.mnc_data import MNCDataLayer
from caffe_bridge.tools import test_net, train_net
from caffe_bridge.training import Trainer


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallRun(tmp_path_factory.mktemp("small"))


def test_two_processes_train_as_one_with_twice_the_passes(small):
    """Weights and losses of each iteration; and a run begun by two goes on in one."""
    snapshots = ("TRAIN.SNAPSHOT_ITERS", "1")
    both = torchrun("train_net", small.training("two", 2, iter_size=2, settings=snapshots), processes=2)
    alone = small.training("one", 2, "--seed-passes", iter_size=4, settings=snapshots)
    assert run(train_net.main, alone) == 0
    output = finish(both)
    assert output.count("done solving") == 1 and output.count("Iteration 1 (") == 1
    losses = [
        [json.loads(line)["loss"] for line in (small.output(name) / "training.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    states = [small.output(name) / "small_iter_1.solverstate.h5" for name in ("one", "two")]
    again = small.training("again", 2, "--seed-passes", "--resume", str(states[1]), iter_size=4)
    assert run(train_net.main, again) == 0
    expected = read_all(small.snapshot("one", 2))
    for name in ("two", "again"):
        got = read_all(small.snapshot(name, 2))
        assert got.keys() == expected.keys()
        for blob, values in expected.items():
            np.testing.assert_allclose(got[blob], values, rtol=1e-4, atol=1e-6, err_msg=blob)


def test_two_processes_find_what_one_finds(small):
    assert run(train_net.main, small.training("tested", 1)) == 0
    net = small.snapshot("tested", 1)
    assert run(test_net.main, small.testing("one", net)) == 0
    for process in fork_two("test_net", small.testing("two", net)):
        finish(process)
    found = [small.output(name, "shapes_val") / "small_iter_1" for name in ("one", "two")]
    for file in ("segm.json", "results.json"):
        assert (found[0] / file).read_text() == (found[1] / file).read_text()


def test_processes_need_a_seed():
    with pytest.raises(CaffeError, match="need seed_passes"):
        Trainer("", workers=Workers(1, 2))


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with workers(cpu=True) as me:
        assert (me.rank, me.count, me.device.type, me.first) == (0, 1, "cpu", True)
        tensor = torch.ones(3)
        me.sum([tensor])
        me.share([tensor])
        me.wait()
        assert tensor.tolist() == [1, 1, 1]


def test_messages_hold_tensors_of_one_type_and_limited_size(monkeypatch):
    monkeypatch.setattr("caffe_bridge.distributed.BUCKET", 10)
    tensors = [torch.zeros(n, dtype=dtype) for n, dtype in ((4, torch.float32), (6, torch.float32), (1, torch.float32))]
    tensors += [torch.zeros(1, dtype=torch.float64), torch.zeros(30, dtype=torch.float64)]
    assert [[tensor.numel() for tensor in bucket] for bucket in _buckets(tensors)] == [[4, 6], [1], [1], [30]]
    assert list(_buckets([])) == []


def test_a_layer_that_leaves_an_image_to_others_draws_as_if_it_took_it(small):
    config.cfg_from_file(small.folder / "small.yml")
    imdb = get_imdb("shapes_train", small.folder / "data" / "shapes")
    ends = []
    for leaves in (False, True):
        np.random.seed(5)
        layer = MNCDataLayer(definition.read_net(PROTOTXT / "train.prototxt", "TRAIN").param.layer[0], [], "TRAIN")
        layer.set_roidb(imdb.roidb())
        layer.set_maskdb(imdb.maskdb())
        for i in range(10):  # beyond the eight images, where it shuffles
            layer.skip() if leaves and i % 2 else layer()
        ends.append((layer.stream_state(), np.random.randint(1 << 30)))
    assert ends[0] == ends[1]
