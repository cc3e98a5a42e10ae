"""What the module `caffe` itself offers, and what of a net and its layers only Caffe's extension module shows."""

import logging
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge import log, solver_shares
from caffe_bridge.errors import CaffeError, LayerError

NET = """
name: "ids" force_backward: true
input: "data" input_shape { dim: 2 dim: 3 dim: 5 dim: 5 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "a" type: "Power" bottom: "conv" top: "a" power_param { power: 2 } }
layer { name: "b" type: "Power" bottom: "conv" top: "b" }
layer { name: "loss" type: "EuclideanLoss" bottom: "a" bottom: "b" top: "loss" loss_weight: 3 }
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return caffe.Net(str(path), caffe.TRAIN)


@pytest.fixture
def quiet():
    yield
    logger = logging.getLogger("caffe_bridge")
    for handler in [h for h in logger.handlers if isinstance(h, log.StderrHandler)]:
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_everything_that_pycaffe_has_is_there():
    names = """Net SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver NCCL Timer init_log
        log set_mode_cpu set_mode_gpu set_device Layer get_solver layer_type_list set_random_seed solver_count
        set_solver_count solver_rank set_solver_rank set_multiprocess has_nccl __version__ TRAIN TEST Classifier
        Detector io layers params NetSpec to_proto BlobVec RawBlobVec LayerVec StringVec IntVec DtypeVec NetVec
        BoolVec"""
    assert [name for name in names.split() if not hasattr(caffe, name)] == []
    types = caffe.layer_type_list()
    assert types == sorted(set(types)) and {"Python", "Convolution", "Input", "Split"} <= set(types)


def test_ids_are_positions_in_the_lists_of_names(net):
    names = net._blob_names
    assert [names[i] for i in net._inputs] == net.inputs and [names[i] for i in net._outputs] == net.outputs
    for i, layer in enumerate(net._layer_names):
        assert [names[j] for j in net._bottom_ids(i)] == net.bottom_names[layer]
        assert [names[j] for j in net._top_ids(i)] == net.top_names[layer]
    assert (
        net._blob_loss_weights == [net.blob_loss_weights[name] for name in names] and max(net._blob_loss_weights) == 3
    )
    assert net._blobs == list(net.blobs.values())


def test_layers_reshape_and_check_their_bottoms(net):
    conv = net.layer_dict["conv"]
    assert conv.type == "Convolution" and conv.blobs is net.params["conv"]
    bottom, top = caffe.Blob(1, 3, 8, 7), caffe.Blob()
    before = conv.blobs[0].data.copy()
    conv.setup([bottom], [top])
    conv.reshape([bottom], [top])
    assert top.shape == (1, 4, 6, 5)
    np.testing.assert_array_equal(conv.blobs[0].data, before)
    with pytest.raises(LayerError):
        conv.reshape([caffe.Blob(1, 2, 8, 7)], [top])


def test_backward_needs_no_forward(net):
    data, weight = net.blobs["data"], net.params["conv"][0]
    data.data[...] = np.random.randn(*data.shape)
    net.blobs["conv"].diff[...] = 1
    net.backward(start="conv", end="conv")
    expected = weight.data.sum(0)
    np.testing.assert_allclose(data.diff[:, :, 2, 2], np.tile(expected.sum((1, 2)), (2, 1)), rtol=1e-4, atol=1e-5)
    data.reshape(1, 3, 4, 4)
    net.reshape()
    net.blobs["conv"].diff[...] = 1
    net.backward(start="conv", end="conv")
    assert data.diff.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(data.diff[0, :, 0, 0], expected[:, 0, 0], rtol=1e-4)


@pytest.mark.parametrize("shape", [(-1,), (2, -3), (65536, 65536), (1,) * 33])
def test_blobs_refuse_shapes_that_caffe_refuses(shape):
    blob = caffe.Blob(2, 3)
    with pytest.raises(CaffeError, match="a blob cannot have shape"):
        blob.reshape(*shape)
    assert blob.shape == (2, 3)


def test_blob_shapes_are_whole_numbers():
    blob = caffe.Blob()
    blob.reshape(np.int64(2), 0)
    assert blob.data.shape == (2, 0)
    with pytest.raises(TypeError):
        blob.reshape(2.5)
    with pytest.raises(CaffeError, match="five|5 axes"):
        _ = caffe.Blob(1, 1, 1, 1, 1).num
    with pytest.raises(CaffeError, match="CPU"):
        _ = blob._gpu_data_ptr


def test_layer_base_class_takes_a_parameter_message():
    class Mine(caffe.Layer):
        def __init__(self, param):
            super().__init__(param)
            self.ready = True

    param = caffe.proto.caffe_pb2.LayerParameter()
    param.python_param.param_str = "text"
    made = Mine(param)
    assert made.ready and made.param_str == "text" and made.type == "Python" and len(made.blobs) == 0


def test_solver_param_is_live(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.5 lr_policy: "fixed" max_iter: 7 display: 3 type: "Adam"'
    )
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    assert isinstance(solver, caffe.AdamSolver) and isinstance(solver, caffe.SGDSolver)
    assert (solver.param.max_iter, solver.param.display, solver.param.layer_wise_reduce) == (7, 3, True)
    solver.param.base_lr = 0.25
    assert solver.lr == 0.25


def test_several_solvers():
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_multiprocess(True)
    try:
        caffe.set_solver_count(4)
        caffe.set_solver_rank(2)
        assert (caffe.solver_count(), caffe.solver_rank()) == (4, 2)
    finally:
        solver_shares._chosen.clear()
    for make in (caffe.NCCL.new_uid, lambda: caffe.NCCL(None, b"")):
        with pytest.raises(CaffeError, match="DistributedDataParallel"):
            make()


def test_timer(monkeypatch):
    seconds = iter([1.0, 1.25, 2.0, 2.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    timer = caffe.Timer()
    with pytest.raises(CaffeError, match="start"):
        timer.stop()
    assert timer.ms == 0
    timer.start()
    timer.stop()
    assert timer.ms == timer.ms == 250
    timer.start()
    assert timer.ms == timer.ms == 500  # asking stops it


def test_init_log_and_log(capsys, quiet):
    caffe.log("hidden")
    caffe.init_log(0, True)
    caffe.log("100 % shown")
    caffe.init_log(1)
    caffe.log("hidden again")
    printed = capsys.readouterr().err
    assert printed.startswith("I") and printed.endswith("100 % shown\n") and "test_pycaffe_module.py" in printed
    assert "hidden" not in printed


def test_submodules_are_found_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import caffe, caffe.io, caffe.draw, caffe.classifier, caffe.coord_map as c\n"
        "from caffe._caffe import Net\nfrom caffe.pycaffe import SGDSolver\nfrom caffe.io import Transformer\n"
        "import io, caffe_bridge.pycaffe.io as ours\n"
        "assert caffe.io is ours and caffe.io is not io and caffe.Net is Net and caffe.Classifier.__mro__[1] is Net\n"
        "caffe.log('shown')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "caffe_bridge.pycaffe", str(script)],
        env={**os.environ, "GLOG_minloglevel": "0"}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "script.py:7] shown" in done.stderr, done.stderr
