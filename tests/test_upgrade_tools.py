"""upgrade_net_proto_text, upgrade_net_proto_binary, upgrade_solver_proto_text and draw_net as verbs."""

import logging
import sys

import pytest

from caffe_bridge import cli, schema, text_format

V1 = """
name: "old" input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2
         convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" include { phase: TEST } }
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch, tmp_path):
    logger = logging.getLogger("caffe_bridge")
    before, level = list(logger.handlers), logger.level
    monkeypatch.setattr(sys, "argv", ["caffe-bridge"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.prototxt").write_text(V1)
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


def read(path, kind="NetParameter"):
    message = getattr(schema, kind)()
    text_format.parse(open(path, "rb").read(), message, path)
    return message


def test_text_nets(capsys):
    assert cli.main(["upgrade_net_proto_text", "old.prototxt", "new.prototxt"]) == 0
    assert "Wrote upgraded NetParameter text proto to new.prototxt" in capsys.readouterr().err
    net = read("new.prototxt")
    assert [layer.type for layer in net.layer] == ["Input", "Convolution", "ReLU"] and not net.layers
    assert [spec.lr_mult for spec in net.layer[1].param] == [1, 2]
    assert cli.main(["upgrade-net-proto-text", "new.prototxt", "newer.prototxt"]) == 0
    assert "File already in latest proto format: new.prototxt" in capsys.readouterr().err
    assert read("newer.prototxt") == net


def test_binary_nets_keep_their_weights(capsys):
    old = read("old.prototxt")
    old.layers[0].blobs.add(num=4, channels=3, height=3, width=3, data=range(108))
    open("old.caffemodel", "wb").write(old.SerializeToString())
    assert cli.main(["upgrade_net_proto_binary", "old.caffemodel", "new.caffemodel"]) == 0
    net = schema.NetParameter.FromString(open("new.caffemodel", "rb").read())
    assert net.layer[1].type == "Convolution" and list(net.layer[1].blobs[0].data) == list(range(108))
    assert cli.main(["upgrade_net_proto_binary", "old.prototxt", "new.caffemodel"]) == 2
    assert "old.prototxt: " in capsys.readouterr().err.splitlines()[-1]


def test_solvers(capsys):
    open("solver.prototxt", "w").write('net: "n.prototxt" solver_type: ADAGRAD base_lr: 0.5')
    assert cli.main(["upgrade_solver_proto_text", "solver.prototxt", "new.prototxt"]) == 0
    solver = read("new.prototxt", "SolverParameter")
    assert (solver.type, solver.base_lr, solver.HasField("solver_type")) == ("AdaGrad", 0.5, False)
    open("solver.prototxt", "w").write('solver_type: SGD type: "SGD"')
    assert cli.main(["upgrade_solver_proto_text", "solver.prototxt", "new.prototxt"]) == 2
    assert cli.main(["upgrade_solver_proto_text", "absent.prototxt", "new.prototxt"]) == 2


def test_nets_of_any_age_are_drawn(tmp_path):
    pytest.importorskip("pydot")
    assert cli.main(["draw_net", "old.prototxt", "net.raw", "--rankdir", "TB", "--phase", "TRAIN"]) == 0
    graph = (tmp_path / "net.raw").read_text()
    assert "(Convolution)" in graph and "(ReLU)" not in graph and "rankdir=TB" in graph
    assert cli.main(["draw_net", "old.prototxt", "net.raw", "--display_lrm"]) == 0
    graph = (tmp_path / "net.raw").read_text()
    assert "(ReLU)" in graph and "lr mult: 1.0, 2.0" in graph
