"""Whole nets through the convert verb: formats, changes on the way, and the comparison of both sides."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import caffe_bridge
from caffe_bridge import CaffeError, WeightsError, weights
from caffe_bridge.cli import run
from caffe_bridge.convert import formats
from caffe_bridge.convert.program_archive import read_program
from caffe_bridge.tools.convert import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NET = """
name: "tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """net.prototxt and net.caffemodel in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    net = caffe_bridge.Net(NET)
    with torch.no_grad():
        net.params["bn"][1].uniform_(0.5, 2)
        net.params["bn"][0].normal_()
        net.params["bn"][2].fill_(1)
    net.save("net.caffemodel")
    return net


def convert(*arguments: str) -> int:
    return main(["net.prototxt", "net.caffemodel", *arguments])


def image(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


class TestArguments:
    @pytest.mark.parametrize(
        ("files", "destinations"),
        [
            (["a.caffemodel", "b.h5"], 1),
            (["a.prototxt", "a.caffemodel", "b.onnx"], 1),
            (["a.prototxt", "a.caffemodel", "b.h5"], 1),
            (["a.safetensors", "a.prototxt", "b.caffemodel"], 1),
            (["a.prototxt", "a.caffemodel", "b.prototxt"], 1),
            (["a.prototxt", "a.caffemodel", "b.prototxt", "b.caffemodel"], 2),
            (["a.prototxt", "a.caffemodel", "b.h5", "b.prototxt"], 2),
            (["a.onnx", "b.prototxt", "b.caffemodel"], 2),
            (["a.pt2", "b.prototxt", "b.h5"], 2),
            (["a.onnx", "b.py", "c.safetensors"], 2),
            (["a.prototxt", "a.h5", "b.py", "c.safetensors"], 2),
            (["a.onnx", "b.py"], 1),
        ],
    )
    def test_sources_and_destinations(self, files, destinations):
        sources, made = formats.arranged(files)
        assert len(made) == destinations and sources + made == files

    def test_what_does_not_go_together(self, files, capsys):
        for arguments, message in (
            (["net.prototxt", "x.bin"], "no format to write"),
            (["net.onnx", "net.prototxt", "net.caffemodel", "a.h5"], "holds a whole net"),
            (["net.prototxt", "a.onnx"], "no weights to convert"),
            (["net.prototxt", "net.caffemodel", "a.onnx", "--cut", "x"], "cannot cut at 'x'"),
        ):
            assert run(main, arguments) == 2
            assert message in capsys.readouterr().err
        for arguments in (["a.h5"], ["a.h5", "b.h5", "--static"], ["a.h5", "b.h5", "--rename", "x"], ["--scale", "x"]):
            with pytest.raises(SystemExit):
                main(arguments)


class TestFormats:
    def test_python_source(self, files, capsys):
        assert convert("net.py") == 0
        out = capsys.readouterr().out
        assert "prob: error" in out and "on random inputs" in out
        names: dict = {"__name__": "net"}
        exec(Path("net.py").read_text(), names)
        torch.testing.assert_close(names["load"]("net.safetensors")(image()), files(data=image())["prob"])
        assert convert("other.py", "w.safetensors") == 0
        assert Path("w.safetensors").read_bytes() == Path("net.safetensors").read_bytes()
        assert Path("w.safetensors").stat().st_mode == Path("net.py").stat().st_mode

    def test_programs_there_and_back(self, files, capsys):
        assert convert("net.pt2") == 0
        program = read_program("net.pt2")
        with torch.no_grad():
            for batch in (1, 5):
                x = torch.randn(batch, 3, 12, 12)
                torch.testing.assert_close(program.module()(x), files(data=x)["prob"])
        assert not any("stack_trace" in node.meta for node in program.graph.nodes)
        assert main(["net.pt2", "back.prototxt", "back.caffemodel"]) == 0
        assert "error" in capsys.readouterr().out
        back = caffe_bridge.Net("back.prototxt", "back.caffemodel")
        (output,) = back.outputs
        torch.testing.assert_close(back(data=image())[output], files(data=image())["prob"], rtol=1e-4, atol=1e-5)

    def test_onnx_there_and_back(self, files, capsys):
        assert convert("net.onnx") == 0
        assert main(["net.onnx", "back.prototxt", "back.caffemodel"]) == 0
        assert capsys.readouterr().out.count("prob: error") == 2
        back = caffe_bridge.Net("back.prototxt", "back.caffemodel")
        torch.testing.assert_close(back(data=image())["prob"], files(data=image())["prob"], rtol=1e-4, atol=1e-5)

    def test_caffe_again(self, files, capsys):
        assert convert("b.prototxt", "b.caffemodel.h5") == 0 and "prob: error 0 " in capsys.readouterr().out
        again = caffe_bridge.Net("b.prototxt", "b.caffemodel.h5")
        assert torch.equal(again(data=image())["prob"], files(data=image())["prob"])
        assert convert("only.prototxt", "--fold") == 0
        assert [node.name for node in caffe_bridge.Net("only.prototxt").graph.nodes][1:3] == ["conv", "relu"]

    def test_input_shapes_and_given_inputs(self, files, capsys):
        np.savez("in.npz", data=image().numpy()[:1])
        assert convert("b.prototxt", "b.h5", "--input-shape", "data=1,3,12,12", "--inputs", "in.npz") == 0
        out = capsys.readouterr().out
        assert "prob: error 0 on in.npz" in out
        assert caffe_bridge.Net("b.prototxt").graph.shapes["data"] == (1, 3, 12, 12)
        np.savez("other.npz", x=np.zeros(3))
        assert run(main, ["net.prototxt", "net.caffemodel", "b.onnx", "--inputs", "other.npz"]) == 2
        assert "has no array 'data'" in capsys.readouterr().err
        Path("no.npz").write_bytes(pickle.dumps([1]))
        np.savez("flat.npz", data=np.zeros(3))
        for name, message in (
            ("no.npz", "is no .npz file"),
            ("missing.npz", "missing.npz: cannot be read as arrays: No such file"),
            ("flat.npz", "array 'data' has shape (3,), the input"),
        ):
            assert run(main, ["net.prototxt", "net.caffemodel", "c.onnx", "--inputs", name]) == 2
            assert message in capsys.readouterr().err
        assert not Path("c.onnx").exists()

    def test_programs_have_one_size(self, files, capsys):
        assert convert("net.pt2") == 0
        assert run(main, ["net.pt2", "c.prototxt", "c.h5", "--input-shape", "data=1,3,16,16"]) == 2
        assert "of which only the batch can be another" in capsys.readouterr().err
        assert not Path("c.prototxt").exists()

    def test_a_wrong_result_is_told(self, files, capsys, monkeypatch):
        from caffe_bridge.convert import torch_export

        right = torch_export.torch_module

        def wrong(net):
            made = right(net)
            made.tensors["fc.bias"] = made.tensors["fc.bias"] + torch.arange(5.0)
            return made

        monkeypatch.setattr("caffe_bridge.convert.torch_files.torch_module", wrong)
        assert convert("net.py") == 1
        assert "above 0.0001" in capsys.readouterr().out
        assert convert("net.py", "--no-verify") == 0


class TestChanges:
    @pytest.mark.parametrize("destination", [["b.prototxt", "b.caffemodel"], ["b.onnx"], ["b.py"], ["b.pt2"]])
    def test_all_that_keep_the_outputs(self, files, capsys, destination):
        flags = ["--fold", "--prune", "--fc-to-conv", "--mean", "1,2,3", "--scale", "0.5", "--rgb"]
        assert convert(*destination, *flags, "--rename", "data=image", "--rename", "conv=first") == 0
        out = capsys.readouterr().out
        assert "prob: error" in out and "above" not in out
        if len(destination) == 2:
            net = caffe_bridge.Net(*destination)
            assert [node.name for node in net.graph.nodes] == ["image", "first", "relu", "pool", "fc", "prob"]
            x = (image() * 2 + torch.tensor([1.0, 2, 3])[:, None, None]).flip(1)
            wanted = files(data=image())["prob"]
            torch.testing.assert_close(net(image=x)["prob"][:, :, 0, 0], wanted, rtol=1e-4, atol=1e-5)

    def test_reversing_a_single_channel(self, files, capsys):
        Path("gray.prototxt").write_text(NET.replace("dim: 3", "dim: 1", 1))
        caffe_bridge.Net("gray.prototxt").save("gray.caffemodel")
        assert main(["gray.prototxt", "gray.caffemodel", "b.prototxt", "b.caffemodel", "--rgb"]) == 0
        assert "prob: error 0" in capsys.readouterr().out

    def test_classes(self, files, capsys):
        assert convert("b.prototxt", "b.caffemodel", "--classes", "3") == 0
        out = capsys.readouterr().out
        assert "drawn anew by their fillers: fc" in out and "prob: error 0" in out
        assert caffe_bridge.Net("b.prototxt", "b.caffemodel").graph.shapes["prob"] == (2, 3)

    def test_cut(self, files, capsys):
        assert convert("b.onnx", "--cut", "pool,fc", "--from", "conv") == 0
        out = capsys.readouterr().out
        assert "pool_output: error" in out and "fc: error" in out and "above" not in out
        assert [value.name for value in onnx.load("b.onnx").graph.input] == ["conv"]

    def test_half(self, files, capsys):
        assert convert("b.onnx", "--fp16") == 0 and convert("single.onnx") == 0
        types = {tensor.name: tensor.data_type for tensor in onnx.load("b.onnx").graph.initializer}
        assert types["fc.0/half"] == onnx.TensorProto.FLOAT16
        assert convert("b.py", "--fp16") == 0
        tensors = safetensors.torch.load_file("b.safetensors")
        assert tensors["conv.weight"].dtype == torch.float16 and tensors["bn.running_var"].dtype == torch.float32
        assert convert("b.pt", "--fp16") == 0
        assert torch.load("b.pt", weights_only=True)["fc.0"].dtype == torch.float16
        assert "above" not in capsys.readouterr().out

    def test_mean_files(self, files, capsys):
        mean = np.random.default_rng(0).standard_normal((3, 12, 12)).astype(np.float32)
        weights.write_blobproto("mean.binaryproto", mean)
        np.save("small.npy", mean[:, :4, :4])
        assert convert("b.prototxt", "b.caffemodel", "--mean", "mean.binaryproto") == 0
        assert "data_bias" in [node.name for node in caffe_bridge.Net("b.prototxt").graph.nodes]
        assert convert("b.prototxt", "b.caffemodel", "--mean", "small.npy") == 0
        assert len(caffe_bridge.Net("b.prototxt").graph.nodes) == len(files.graph.nodes)
        assert "above" not in capsys.readouterr().out

    def test_what_cannot_be_verified(self, files, capsys):
        assert convert("b.h5") == 0 and "error" not in capsys.readouterr().out
        assert run(main, ["net.prototxt", "net.caffemodel", "b.h5", "--verify"]) == 2
        Path("train.prototxt").write_text(NET.replace('type: "Input"', 'type: "HDF5Data"'))
        assert main(["train.prototxt", "net.caffemodel", "b.prototxt", "b.h5", "--rename", "fc=score"]) == 0
        assert "not verified: " in capsys.readouterr().out
        assert "score" in Path("b.prototxt").read_text()


def rewritten(source: str, destination: str, changes: dict[str, bytes]) -> None:
    """A zip with some records replaced or added, uncompressed as torch writes them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(destination, "w") as new:
        folder = old.namelist()[0].partition("/")[0]
        changes = {f"{folder}/{name}": content for name, content in changes.items()}
        for name in old.namelist():
            new.writestr(name, changes.pop(name, None) or old.read(name))
        for name, content in changes.items():
            new.writestr(name, content)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


class TestProgramArchives:
    @pytest.fixture
    def program(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        class Module(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = torch.nn.Conv2d(3, 4, 3)
                self.register_buffer("shift", torch.ones(4, 1, 1), persistent=False)

            def forward(self, x):
                y = self.conv(x) + self.shift
                return {"y": torch.flatten(y, 1), "z": torch.nn.functional.gelu(y, approximate="tanh").mean()}

        batch = torch.export.Dim("batch")
        arguments = (torch.randn(2, 3, 8, 8),)
        torch.export.save(torch.export.export(Module().eval(), arguments, dynamic_shapes=({0: batch},)), "a.pt2")
        with zipfile.ZipFile("a.pt2") as archive:
            return json.loads(archive.read(archive.namelist()[0].partition("/")[0] + "/models/model.json"))

    def test_what_torch_writes_is_read(self, program):
        made = read_program("a.pt2").module()(torch.randn(3, 3, 8, 8))
        assert made["y"].shape == (3, 144)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("torch.ops.aten.conv2d.default", "torch.hub.load"),
            ("torch.ops.aten.conv2d.default", "torch.ops.aten.from_file.default"),
            ("torch.ops.aten.conv2d.default", "#extension"),
            ("Symbol('s77', positive=True, integer=True)", "__import__('os').mkdir('ran')"),
            ("Symbol('s77', positive=True, integer=True)", "Integer(9)**Integer(9)**Integer(99)"),
            ("Symbol('s77', positive=True, integer=True)", "Integer(2).__class__"),
            ('"name": "x"', "\"name\": \"x=__import__('os').mkdir('ran')\""),
            ("builtins.dict", "os.system"),
        ],
    )
    def test_code_in_the_graph_is_refused(self, program, old, new, tmp_path):
        text = json.dumps(program)
        symbol = next(word for word in text.split("'") if word.startswith("s") and word[1:].isdigit())
        old = old.replace("s77", symbol)
        assert old in text
        rewritten("a.pt2", "b.pt2", {"models/model.json": text.replace(old, new).encode()})
        with pytest.raises(WeightsError, match="refused"):
            read_program("b.pt2")
        assert not (tmp_path / "ran").exists()

    def test_guards_are_refused(self, program):
        program["guards_code"] = ["__import__('os').mkdir('ran')"]
        rewritten("a.pt2", "b.pt2", {"models/model.json": json.dumps(program).encode()})
        with pytest.raises(WeightsError, match="guards_code"):
            read_program("b.pt2")

    def test_pickles_are_not_run(self, program, tmp_path):
        import io

        buffer = io.BytesIO()
        torch.save((Bomb(tmp_path / "ran"),), buffer)
        rewritten("a.pt2", "b.pt2", {"data/sample_inputs/model.pt": buffer.getvalue()})
        assert read_program("b.pt2").example_inputs is None  # left out
        with zipfile.ZipFile("a.pt2") as archive:
            folder = archive.namelist()[0].partition("/")[0]
            table = json.loads(archive.read(f"{folder}/data/weights/model_weights_config.json"))
        table["config"]["conv.bias"]["use_pickle"] = True
        records = {"data/weights/model_weights_config.json": json.dumps(table).encode()}
        rewritten("a.pt2", "c.pt2", {**records, "data/weights/weight_1": buffer.getvalue()})
        rewritten("a.pt2", "d.pt2", {"data/constants/opaque_obj_0": pickle.dumps(Bomb(tmp_path / "ran"))})
        rewritten("a.pt2", "e.pt2", {"data/weights/model.pt": buffer.getvalue()})
        rewritten("a.pt2", "f.pt2", {"data/aotinductor/model/code.so": b"x"})
        for name in "cdef":
            with pytest.raises(WeightsError, match=f"{name}.pt2"):
                read_program(f"{name}.pt2")
        assert not (tmp_path / "ran").exists()

    def test_two_directories(self, program, tmp_path):
        """A second directory of records, which some readers of zip files find and others do not, is not loaded."""
        Path("front").write_bytes(Path("a.pt2").read_bytes() + b"x" * 64)
        Path("b.pt2").write_bytes(Path("front").read_bytes() + Path("a.pt2").read_bytes())
        assert read_program("b.pt2").module()(torch.zeros(2, 3, 8, 8))["y"].shape == (2, 144)

    def test_damaged_files(self, program, caplog):
        data = Path("a.pt2").read_bytes()
        draw = random.Random(0)
        for seed in range(60):
            broken = bytearray(data)
            if seed % 2:
                broken = broken[: draw.randrange(len(data))]
            else:
                for _ in range(8):
                    broken[draw.randrange(len(data))] = draw.randrange(256)
            Path("b.pt2").write_bytes(broken)
            try:
                read_program("b.pt2")
            except CaffeError as error:
                assert "b.pt2" in str(error)
        for content in (b"", b"PK", b"layer {}"):
            Path("b.pt2").write_bytes(content)
            with pytest.raises(WeightsError, match="b.pt2"):
                read_program("b.pt2")
        with pytest.raises(WeightsError, match="No such file"):
            read_program("none.pt2")
        assert not caplog.records


def test_inputs_too_large_to_try(files, capsys):
    Path("wide.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 40000 dim: 40000 } } }'
        'layer { name: "conv" type: "Convolution" bottom: "x" top: "y" '
        "convolution_param { num_output: 1 kernel_size: 1 } }"
    )
    weights.write_caffemodel(
        "wide.caffemodel",
        [(("conv", "Convolution", ["x"], ["y"]), [np.ones((1, 1, 1, 1), np.float32), np.ones(1, np.float32)])],
        "wide",
    )
    assert main(["wide.prototxt", "wide.caffemodel", "b.prototxt", "b.caffemodel"]) == 0
    assert "not verified: input 'x' of shape (1, 1, 40000, 40000) is too large" in capsys.readouterr().out
