"""The solver loop over both faces: recorded runs, snapshots, testing, logging."""

import logging

import h5py
import numpy as np
import pytest
import torch

import caffe_bridge
import caffe_bridge.pycaffe as caffe
from caffe_bridge import randomness, schema
from caffe_bridge.errors import CaffeError, SolverError
from caffe_bridge.pycaffe.solvers import get_solver
from caffe_bridge.solver_loop import number

NET = """
name: "regression"
layer { name: "data" type: "DummyData" top: "data" top: "target"
        dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 }
                           data_filler { type: "gaussian" } data_filler { type: "gaussian" std: 2 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
        param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "fc1" top: "fc1" dropout_param { dropout_ratio: 0.3 } }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "target" top: "loss" }
"""

SOLVER = """
net: "net.prototxt" type: "%s" base_lr: 0.05 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 5
%s weight_decay: 0.01 max_iter: 8 random_seed: 7 snapshot_prefix: "%s" %s
"""
MOMENTUM = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.9",
    "AdaDelta": "momentum: 0.9 delta: 1e-4",
    "Adam": "momentum: 0.9",
}

FACES = {"torch": caffe_bridge.Solver, "pycaffe": get_solver}


@pytest.fixture(params=FACES)
def make(request, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)

    def solver(rule="SGD", extra=""):
        path = tmp_path / "solver.prototxt"
        path.write_text(SOLVER % (rule, MOMENTUM.get(rule, ""), tmp_path / "snap", extra))
        return FACES[request.param](str(path))

    return solver


def values(solver):
    return [parameter.detach().clone() for parameter in solver.learnable]


def test_recorded_solvers(reference, tmp_path):
    """Eight iterations of every rule under varied policies, as BVLC Caffe made them."""
    cases = sorted((reference / "solvers").glob("*.npz"))
    assert len(cases) == 24
    for case in cases:
        z = dict(np.load(case))
        path = tmp_path / "solver.prototxt"
        path.write_text(str(z["solver"]))
        solver = get_solver(str(path))
        for key in z:
            if key.startswith("init/"):
                layer, index = key[5:].rsplit("/", 1)
                solver.net.params[layer][int(index)].data[...] = z[key]
        for it in range(len(z["loss"])):
            for key in z:
                if key.startswith("in/"):
                    solver.net.blobs[key[3:]].data[...] = z[key][it]
            solver.step(1)
            assert float(solver.net.blobs["loss"].data) == pytest.approx(float(z["loss"][it]), rel=5e-5), case.name
            for key in z:
                if key.startswith("after/"):
                    layer, index = key[6:].rsplit("/", 1)
                    got = solver.net.params[layer][int(index)].data
                    np.testing.assert_allclose(got, z[key][it], rtol=5e-5, atol=5e-5, err_msg=f"{case.name} {key} {it}")


@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_both_faces_make_the_same_updates(rule, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER % (rule, MOMENTUM.get(rule, ""), tmp_path / "snap", "iter_size: 2 clip_gradients: 1.5"))
    runs = []
    for face in FACES.values():
        solver = face(str(path))
        solver.step(6)
        runs.append(values(solver))
    for first, second in zip(*runs):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_a_resumed_run_ends_bit_identical(make, rule, form, tmp_path):
    extra = f"snapshot: 3 snapshot_format: {form}"
    solver = make(rule, extra)
    solver.solve()
    undisturbed = values(solver)
    assert solver.iter == 8
    suffix = ".h5" if form == "HDF5" else ""
    assert (tmp_path / f"snap_iter_6.caffemodel{suffix}").exists()
    assert (tmp_path / f"snap_iter_8.solverstate{suffix}").exists()
    randomness.seed(99)
    resumed = make(rule, extra)
    np.random.seed(5)
    resumed.solve(tmp_path / f"snap_iter_3.solverstate{suffix}")
    assert resumed.iter == 8
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, values(resumed), strict=True))


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_snapshot_diff_writes_the_updates_beside_the_values(make, form, tmp_path):
    solver = make("SGD", f"snapshot_diff: true snapshot_format: {form}")
    solver.step(1)
    solver.snapshot()
    expected = {i: parameter.grad.numpy() for i, parameter in enumerate(solver.learnable)}
    if form == "HDF5":
        with h5py.File(tmp_path / "snap_iter_1.caffemodel.h5") as file:
            found = [file[f"diff/{layer}/{i}"][()] for layer in ("fc1", "fc2") for i in range(2)]
            assert file["data/fc1/0"].shape == found[0].shape
    else:
        net = schema.NetParameter.FromString((tmp_path / "snap_iter_1.caffemodel").read_bytes())
        blobs = [blob for layer in net.layer if layer.name in ("fc1", "fc2") for blob in layer.blobs]
        found = [np.array(blob.diff, "f").reshape(tuple(blob.shape.dim)) for blob in blobs]
        assert len(blobs[0].data) == len(blobs[0].diff)
    for i, diff in enumerate(found):
        np.testing.assert_array_equal(diff, expected[i])
    other = make("SGD", f"snapshot_format: {form}")
    other.restore(tmp_path / ("snap_iter_1.solverstate" + (".h5" if form == "HDF5" else "")))
    assert all(torch.equal(a, b) for a, b in zip(values(solver), values(other), strict=True))


def test_snapshots_move_with_their_weights(make, tmp_path):
    solver = make()
    solver.step(2)
    solver.snapshot()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("snap_iter_2.caffemodel", "snap_iter_2.solverstate"):
        (tmp_path / name).rename(moved / name)
    other = make()
    other.restore(moved / "snap_iter_2.solverstate")
    assert other.iter == 2 and all(torch.equal(a, b) for a, b in zip(values(solver), values(other), strict=True))


def test_a_state_of_another_net_is_refused(make, tmp_path):
    solver = make("Adam")
    solver.step(1)
    solver.snapshot()
    with pytest.raises(SolverError, match="8 history blobs, this net and SGD have 4"):
        make("SGD").restore(tmp_path / "snap_iter_1.solverstate")


def test_test_nets_use_the_train_parameters_and_average(make, caplog):
    caplog.set_level(logging.INFO, "caffe_bridge")
    solver = make("SGD", "test_iter: 3 test_interval: 2 test_initialization: false")
    assert len(solver.test_nets) == 1
    solver.step(3)
    means = solver.test(0)
    assert set(means) == {"loss"} and np.isfinite(means["loss"])
    tests = [r.getMessage() for r in caplog.records if "Testing net" in r.getMessage()]
    assert tests == ["Iteration 2, Testing net (#0)", "Iteration 3, Testing net (#0)"]
    mine, theirs = solver.net.params["fc1"][0], solver.test_nets[0].params["fc1"][0]
    pointers = [p.data_ptr() if isinstance(p, torch.Tensor) else p.data.ctypes.data for p in (mine, theirs)]
    assert pointers[0] == pointers[1]


def test_log_lines_are_caffes(make, caplog):
    caplog.set_level(logging.INFO, "caffe_bridge")
    solver = make("SGD", "display: 2 average_loss: 2")
    solver.step(3)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("Iteration 2 (") and "iter/s" in line and ", loss = " in line for line in lines)
    assert "Iteration 2, lr = 0.025" in lines
    assert any(line.startswith("    Train net output #0: loss = ") and "(* 1 = " in line for line in lines)


def test_requests_snapshot_and_stop(make, tmp_path):
    solver = make()
    answers = iter([None, "snapshot", "stop"])
    solver.requests = lambda: next(answers)
    solver.solve()
    assert solver.iter == 3
    assert (tmp_path / "snap_iter_2.solverstate").exists() and (tmp_path / "snap_iter_3.solverstate").exists()


def test_callbacks_run_around_the_gradients(make):
    solver, seen = make(), []
    solver.add_callback(
        lambda: seen.append("start"), lambda: seen.append(bool(solver.learnable[0].grad.abs().sum() > 0))
    )
    solver.step(2)
    assert seen == ["start", True, "start", True]


def test_weights_start_the_train_and_test_nets(make, tmp_path):
    solver = make()
    solver.step(1)
    solver.net.save(str(tmp_path / "start.caffemodel"))
    other = make("SGD", f'weights: "{tmp_path / "start.caffemodel"}"')
    assert all(torch.equal(a, b) for a, b in zip(values(solver), values(other), strict=True))


@pytest.mark.parametrize(
    ("rule", "extra", "message"),
    [
        ("Momentum", "", "solver type 'Momentum' is unknown"),
        ("AdaGrad", "momentum: 0.5", "momentum cannot be used with AdaGrad"),
        ("SGD", "iter_size: 0", "iter_size must be at least 1"),
        ("SGD", 'regularization_type: "L0"', "regularization_type is L2 or L1"),
        ("SGD", "test_iter: 1", "test_interval"),
    ],
)
def test_wrong_solvers_are_refused(make, rule, extra, message):
    with pytest.raises(CaffeError, match=message):
        make(rule, extra)


def test_a_snapshot_prefix_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER % ("SGD", "", tmp_path / "no" / "where", "snapshot: 5"))
    with pytest.raises(SolverError, match="cannot write snapshots to .*make sure that the folder exists"):
        caffe_bridge.Solver(tmp_path / "solver.prototxt")


def test_get_solver_picks_the_class_and_classes_override_the_type(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER % ("RMSProp", "", tmp_path / "snap", ""))
    assert type(caffe.get_solver(str(path))) is caffe.RMSPropSolver
    assert caffe.SGDSolver(str(path)).param.type == "SGD"


@pytest.mark.parametrize(("value", "text"), [(-0.0, "0"), (0.5, "0.5"), (1e-7, "1e-07"), (1234567.0, "1.23457e+06")])
def test_numbers_are_logged_as_caffe_prints_them(value, text):
    assert number(value) == text
