"""pycaffe's draw: labels, phases, the graph's text, pictures where Graphviz is there."""

import shutil
import sys

import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge import schema, text_format
from caffe_bridge.errors import CaffeError
from caffe_bridge.pycaffe import draw

NET = """
name: "drawn"
layer { name: "data" type: "Data" top: "data" include { phase: TRAIN } data_param { batch_size: 32 } }
layer { name: "held" type: "Data" top: "data" include { phase: TEST } data_param { batch_size: 8 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 2 }
        convolution_param { num_output: 20 kernel_size: 5 stride: 2 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" exclude { phase: TEST } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "fc|1{\\"" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 7 }
        include { stage: "deploy" } }
"""


@pytest.fixture
def net():
    message = schema.NetParameter()
    text_format.parse(NET, message)
    return message


def test_labels(net):
    _, _, conv, _, pool, fc = net.layer
    assert draw.get_layer_label(conv, "LR") == r'"conv\n(Convolution)\nkernel size: 5\nstride: 2\npad: 1"'
    assert draw.get_layer_label(conv, "TB", display_lrm=True).endswith('stride: 2 pad: 1 lr mult: 2.0, 1.0"')
    assert draw.get_layer_label(pool, "BT") == '"pool (Pooling AVE) kernel size: 3 stride: 2 pad: 0"'
    assert draw.get_layer_label(fc, "LR") == r'"fc\|1\{\"\n(InnerProduct)"'
    assert [draw.get_edge_label(layer) for layer in net.layer] == ["Batch 32", "Batch 8", "20", '""', '""', "7"]


def test_learning_rate_multipliers(net):
    conv = net.layer[2]
    conv.param.add(lr_mult=0.5)
    assert draw.get_layer_lr_mult(conv) == (2, 0.5)
    assert draw.get_layer_lr_mult(net.layer[5]) == (1, 1)
    conv.param.add()
    for layer in (conv, net.layer[3]):
        with pytest.raises(ValueError, match=layer.name):
            draw.get_layer_lr_mult(layer)


def drawn(net, **options):
    pytest.importorskip("pydot")
    return draw.get_pydot_graph(net, "LR", **options).to_string()


def test_the_graph_holds_layers_blobs_and_edges(net):
    text = drawn(net)
    assert "rankdir=LR" in text.replace(" ", "").replace('"', "") and text.count("octagon") == 4
    assert text.count("->") == 10
    for colour in ("#FF5050", "#FF9900", "#CC33FF", "#90EE90"):
        assert colour in text
    assert "Batch 32" in text and "Batch" not in drawn(net, label_edges=False)


def test_phases(net):
    train, test = drawn(net, phase=caffe.TRAIN), drawn(net, phase=caffe.TEST)
    assert "(Data)" in train and "held" not in train and "relu" in train
    assert "held" in test and "relu" not in test
    assert "InnerProduct" in train and "InnerProduct" in test  # its rule says nothing about phases
    net.layer[0].exclude.add()
    with pytest.raises(ValueError, match="both include and exclude"):
        drawn(net, phase=caffe.TRAIN)


def test_raw_text_needs_no_graphviz(net, tmp_path):
    pytest.importorskip("pydot")
    draw.draw_net_to_file(net, str(tmp_path / "net.raw"), "TB")
    assert (tmp_path / "net.raw").read_text().startswith("digraph")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_pictures(net, tmp_path):
    pytest.importorskip("pydot")
    draw.draw_net_to_file(net, str(tmp_path / "net.png"))
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    assert b"fc|1{&quot;" in draw.draw_net(net, "LR", "svg")


def test_missing_programs_are_named(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(CaffeError, match=r"pip install 'caffe-bridge\[draw\]'"):
        draw.draw_net(net, "LR")
    monkeypatch.undo()
    pytest.importorskip("pydot")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CaffeError, match="Graphviz"):
        draw.draw_net(net, "LR")
