"""Recording with dump_reference.py and comparing with verify."""

from __future__ import annotations

import ast
import html.parser
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge import pycaffe
from caffe_bridge.cli import run
from caffe_bridge.tools import dump_reference, verify
from caffe_bridge.verification import Recording, compare, difference, first_divergence

ROOT = Path(__file__).parent.parent
NET = """
name: "small"
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 3 dim: 8 dim: 9 }} }} }}
layer {{ name: "scale" type: "Power" bottom: "data" top: "scale" power_param {{ scale: 0.02 }} }}
layer {{ name: "conv/1" type: "Convolution" bottom: "scale" top: "conv"
         convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param {{ negative_slope: {slope} }} }}
layer {{ name: "drop" type: "Dropout" bottom: "conv" top: "conv" }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param {{ kernel_size: {pool} stride: 2 }} }}
layer {{ name: "a" type: "Power" bottom: "pool" top: "a" power_param {{ shift: 1 }} }}
layer {{ name: "b" type: "Power" bottom: "pool" top: "b" power_param {{ scale: 3 }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }}
{more}
"""


def write_net(path, slope=0.0, pool=2, more=""):
    path.write_text(NET.format(slope=slope, pool=pool, more=more))
    return str(path)


@pytest.fixture
def small(tmp_path):
    """A definition and its weights."""
    prototxt = write_net(tmp_path / "small.prototxt")
    pycaffe.Net(prototxt, pycaffe.TEST).save(str(tmp_path / "small.caffemodel"))
    return prototxt, str(tmp_path / "small.caffemodel")


@pytest.fixture
def dump(small, tmp_path, monkeypatch):
    """Record with the engine itself in the place of Caffe; returns the exit status and the file."""
    monkeypatch.setitem(sys.modules, "caffe", pycaffe)
    monkeypatch.setattr(sys, "argv", ["dump_reference.py"])

    def record(*options, net=small):
        out = str(tmp_path / "dump.npz")
        arguments = ["--def", net[0], "--net", net[1], "--out", out, *map(str, options)]
        return run(dump_reference.main, arguments), out

    return record


def rows_of(net, reference, **options):
    with Recording(reference) as recording:
        return list(compare(pycaffe.Net(*net, recording.phase), recording, **options))


def verify_status(net, reference, *options):
    return run(verify.main, ["--def", net[0], "--net", net[1], "--reference", str(reference), *map(str, options)])


def test_recorded_by_a_script_and_equal(small, tmp_path, capsys):
    out = str(tmp_path / "dump.npz")
    script = [sys.executable, "-m", "caffe_bridge.pycaffe", str(ROOT / "tools" / "dump_reference.py")]
    arguments = ["--def", small[0], "--net", small[1], "--train", "--backward", "--seed", "5", "--out", out]
    done = subprocess.run(script + arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "report.html"
    assert verify_status(small, out, "--html", page) == 0
    listing = capsys.readouterr().out
    assert "arrays equal caffe_bridge.pycaffe" in listing and "taken from the recording" in listing
    assert page.read_text().count('<tr class="') == len(rows_of(small, out))


def test_blobs_come_in_execution_order_with_in_place_ones_after_each_layer(small, dump):
    status, out = dump()
    assert status == 0
    blobs = [(row.layer, row.name) for row in rows_of(small, out) if row.what == "blob"]
    assert blobs == [
        ("scale", "scale"),
        ("conv/1", "conv"),
        ("relu", "conv"),
        ("drop", "conv"),
        ("pool", "pool"),
        ("pool_pool_0_split", "pool_pool_0_split_0"),
        ("pool_pool_0_split", "pool_pool_0_split_1"),
        ("a", "a"),
        ("b", "b"),
        ("sum", "sum"),
    ]
    index = {step["layer"]: step["key"] for step in Recording(out).index["steps"]}
    after_conv, after_relu = (Recording(out).array(index[layer]) for layer in ("conv/1", "relu"))
    assert after_conv.min() < 0 and np.array_equal(after_relu, np.maximum(after_conv, 0))


def test_diffs_of_a_net_without_loss_are_not_all_zero(dump, small, tmp_path):
    forced = tmp_path / "forced.prototxt"
    forced.write_text("force_backward: true\n" + Path(small[0]).read_text())
    net = (str(forced), small[1])
    status, out = dump("--backward", net=net)
    assert status == 0
    rows = rows_of(net, out)
    assert first_divergence(rows) is None
    diffs = [row for row in rows if row.what == "diff"]
    assert diffs[0].layer == "sum" and diffs[-1].name == "data"
    assert {row.layer for row in rows if row.what == "parameter diff"} == {"conv/1"}
    with Recording(out) as recording:
        assert all(np.abs(recording.array(entry["key"])).max() > 0 for entry in recording.index["param_diffs"])


def test_changed_parameter_is_the_first_divergence(small, dump, tmp_path, capsys):
    _, out = dump()
    net = pycaffe.Net(*small, pycaffe.TEST)
    net.params["conv/1"][0].data[1] += 0.5
    net.save(str(tmp_path / "other.caffemodel"))
    other = (small[0], str(tmp_path / "other.caffemodel"))
    assert verify_status(other, out) == 1
    printed = capsys.readouterr().out
    assert "first divergence: parameter '0' of layer 'conv/1' (Convolution)" in printed
    assert [line for line in printed.splitlines() if line.endswith("<- first divergence")][0].split()[:2] == [
        "parameter",
        "conv/1",
    ]
    verdicts = {(row.layer, row.name): row.verdict for row in rows_of(other, out) if row.what == "blob"}
    assert verdicts["scale", "scale"] == "equal" and verdicts["conv/1", "conv"] == "differs"


def test_isolated_layers_are_judged_alone(small, dump, tmp_path):
    _, out = dump()
    other = (write_net(tmp_path / "leaky.prototxt", slope=0.1), small[1])
    together = [row.layer for row in rows_of(other, out) if row.verdict == "differs"]
    assert together[0] == "relu" and "sum" in together
    alone = [row.layer for row in rows_of(other, out, isolate=True) if row.verdict == "differs"]
    assert alone == ["relu"]
    assert verify_status(other, out, "--isolate", "--tolerance", "1") == 0


def test_other_shapes_and_layers_differ(small, dump, tmp_path):
    _, out = dump()
    pooled = (write_net(tmp_path / "pooled.prototxt", pool=3), small[1])
    row = next(row for row in rows_of(pooled, out) if row.verdict == "differs")
    assert (row.layer, row.note) == ("pool", "recorded with shape (2, 4, 3, 4)")
    longer = write_net(
        tmp_path / "longer.prototxt", more='layer { name: "end" type: "Power" bottom: "sum" top: "end" }'
    )
    rows = rows_of((longer, small[1]), out)
    assert [(row.layer, row.note) for row in rows if row.verdict == "differs"] == [("end", "not in the recording")]
    _, out = dump(net=(longer, small[1]))
    rows = rows_of(small, out)
    assert [(row.layer, row.note) for row in rows if row.verdict == "differs"] == [("end", "not made here")]


def test_a_layer_that_fails_ends_the_comparison(small, dump, tmp_path):
    np.savez(tmp_path / "in.npz", data=np.ones((2, 3, 12, 12)))
    status, out = dump("--inputs", tmp_path / "in.npz")
    assert status == 0
    full = 'layer { name: "full" type: "InnerProduct" bottom: "sum" top: "full" inner_product_param { num_output: 5 } }'
    last = rows_of((write_net(tmp_path / "full.prototxt", more=full), small[1]), out)[-1]
    assert (last.layer, last.verdict) == ("full", "differs")
    assert "layer 'full' (InnerProduct), bottoms [(2, 4, 5, 5)]" in last.note


def test_inputs_of_another_size_and_wrong_ones(small, dump, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", data=np.random.randn(1, 3, 12, 11))
    status, out = dump("--inputs", tmp_path / "in.npz")
    assert status == 0
    rows = rows_of(small, out)
    assert first_divergence(rows) is None and rows[2].shape == (1, 3, 12, 11)
    np.savez(tmp_path / "in.npz", image=np.zeros(3))
    assert dump("--inputs", tmp_path / "in.npz")[0] == 2
    assert "has image, the net takes data" in capsys.readouterr().err
    assert dump("--inputs", tmp_path / "absent.npz")[0] == 2
    assert "no such file" in capsys.readouterr().err


def test_image_input(small, dump, tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), np.full((20, 30, 3), (10, 20, 30), np.uint8))
    status, out = dump("--image", tmp_path / "image.png")
    assert status == 0
    with Recording(out) as recording:
        data = recording.inputs()["data"]
    assert data.shape == (2, 3, 8, 9)
    assert np.allclose(data, np.reshape([10 - 104, 20 - 117, 30 - 123], (1, 3, 1, 1)), atol=0.01)


class NoisyData(pycaffe.Layer):
    """Draws a varying number of values, then makes a batch."""

    def setup(self, bottom, top):
        self.draws = 1

    def reshape(self, bottom, top):
        top[0].reshape(2, 3)

    def forward(self, bottom, top):
        self.draws *= 7
        top[0].data[...] = np.random.standard_normal(self.draws)[-1]

    def backward(self, top, propagate_down, bottom):
        pass


class Sampler(pycaffe.Layer):
    """Adds NumPy's next draw."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + np.random.standard_normal()

    def backward(self, top, propagate_down, bottom):
        pass


def test_samplers_draw_what_they_drew_after_a_data_layer(dump, tmp_path):
    prototxt = tmp_path / "sampler.prototxt"
    prototxt.write_text(f"""
    layer {{ name: "noise" type: "Python" top: "x" python_param {{ module: "{__name__}" layer: "NoisyData" }} }}
    layer {{ name: "sampler" type: "Python" bottom: "x" top: "y"
             python_param {{ module: "{__name__}" layer: "Sampler" }} }}
    """)
    pycaffe.Net(str(prototxt), pycaffe.TEST).save(str(tmp_path / "sampler.caffemodel"))
    net = (str(prototxt), str(tmp_path / "sampler.caffemodel"))
    status, out = dump("--seed", 8, net=net)
    assert status == 0
    assert [(row.layer, row.verdict) for row in rows_of(net, out)] == [("noise", "given"), ("sampler", "equal")]


def test_data_layers_are_not_run(dump, tmp_path):
    source = """
    layer { name: "source" type: "DummyData" top: "x" dummy_data_param {
      shape { dim: 2 dim: 3 } data_filler { type: "uniform" } } }
    layer { name: "double" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
    """
    prototxt = tmp_path / "source.prototxt"
    prototxt.write_text(source)
    pycaffe.Net(str(prototxt), pycaffe.TEST).save(str(tmp_path / "source.caffemodel"))
    net = (str(prototxt), str(tmp_path / "source.caffemodel"))
    status, out = dump(net=net)
    assert status == 0
    assert [(row.layer, row.verdict) for row in rows_of(net, out)] == [("source", "given"), ("double", "equal")]


def test_files_that_are_no_recordings(small, dump, tmp_path, capsys):
    _, out = dump()
    good = Path(out).read_bytes()
    bad = tmp_path / "bad.npz"
    for content in (b"", b"PK", good[: len(good) // 2], good[:-200]):
        bad.write_bytes(content)
        assert verify_status(small, bad) == 2
    index = Recording(out).index
    wild = {"layer": "data", "key": "random/00000", "position": 10**6, "has_gauss": 0, "gauss": 0.0}
    for change in (
        {"format": 99},
        {"phase": "X"},
        {"seed": -1},
        {"steps": [{}]},
        {"steps": 3},
        {"inputs": ["absent"]},
        {"random": [wild]},
    ):
        rewrite(out, bad, json.dumps({**index, **change}).encode())
        assert verify_status(small, bad) == 2
    rewrite(out, bad, b"[" * 100000)
    assert verify_status(small, bad) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12 and all("not a recording made by dump_reference.py" in line for line in lines)
    assert verify_status(small, tmp_path / "absent.npz") == 2
    assert "absent.npz: No such file or directory" in capsys.readouterr().err


def rewrite(source, target, index):
    """Copy a recording with another index."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name != "index.npy":
                new.writestr(name, old.read(name))
        with new.open("index.npy", "w") as file:
            np.lib.format.write_array(file, np.frombuffer(index, np.uint8))


class Page(html.parser.HTMLParser):
    """Collects tags, the classes of rows, and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.rows, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append(dict(attributes).get("class"))

    def handle_data(self, data):
        self.text += data


def test_page_is_self_contained_and_marks_the_first_divergence(small, dump, tmp_path):
    _, out = dump()
    leaky = write_net(tmp_path / "leaky <b>.prototxt", slope=0.1)
    assert verify_status((leaky, small[1]), out, "--html", tmp_path / "report.html") == 1
    text = (tmp_path / "report.html").read_text()
    page = Page()
    page.feed(text)
    rows = rows_of((leaky, small[1]), out)
    assert page.rows[0] is None and len(page.rows) == 1 + len(rows)
    assert [row for row in page.rows if row and "first" in row] == ["differs first"]
    assert page.rows[1:].index("differs first") == first_divergence(rows)
    assert sum(attributes.get("class") == "bar" for _, attributes in page.tags) == len(rows)
    assert not {"script", "link", "img", "b"} & {tag for tag, _ in page.tags}
    assert "leaky <b>.prototxt" in page.text and "http" not in text and "url(" not in text


def test_difference_of_special_values():
    nan, inf = np.nan, np.inf
    a = np.array([1, nan, inf, -inf, 0], np.float32)
    assert difference(a.copy(), a, 0.0) == (0.0, 0.0, 0.0)
    assert difference(np.array([nan], np.float32), np.array([2], np.float32), 0.1) == (inf, inf, 1.0)
    assert difference(np.array([inf], np.float32), np.array([-inf], np.float32), 0.1)[0] == inf
    assert difference(np.float32([0.5, 0]), np.float32([0, 0]), 0.1) == (0.5, 0.5, 0.5)
    assert difference(np.float32([4, 10]), np.float32([5, 10]), 0.01) == (1.0, 0.1, 0.5)
    assert difference(np.zeros((0, 5), np.float32), np.zeros((0, 5), np.float32), 0.0) == (0.0, 0.0, 0.0)


def test_bad_arguments(small, dump, capsys):
    _, out = dump()
    assert verify_status(small, out, "--tolerance", "-1") == 2
    assert verify_status((small[0] + "x", small[1]), out) == 2
    assert verify_status((small[0], small[1] + "x"), out) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_dump_reference_is_python_2():
    """What Python 2.7 cannot parse, as far as today's parser can tell, and modules it or a plain Caffe lacks."""
    source = (ROOT / "tools" / "dump_reference.py").read_text()
    assert source.isascii()
    tree = ast.parse(source)
    newer = (
        ast.JoinedStr,
        ast.AnnAssign,
        ast.NamedExpr,
        ast.Nonlocal,
        ast.AsyncFunctionDef,
        ast.YieldFrom,
        ast.MatMult,
    )
    modules = set()
    for node in ast.walk(tree):
        assert not isinstance(node, newer), ast.unparse(node)
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            assert node.returns is None and not arguments.kwonlyargs and not arguments.posonlyargs
            assert all(argument.annotation is None for argument in arguments.args)
        if isinstance(node, ast.ClassDef):
            assert node.bases and not node.keywords
        if isinstance(node, ast.Raise):
            assert node.cause is None
        if isinstance(node, ast.Call):
            assert not any(isinstance(argument, ast.Starred) for argument in node.args[:-1])
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module.partition(".")[0])
    allowed = {"__future__", "argparse", "caffe", "caffe_bridge", "io", "json", "numpy", "os", "sys", "zipfile", "zlib"}
    assert modules <= allowed
