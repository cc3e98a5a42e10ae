"""Converting weights: values, names, definitions and sharing survive the way through every format and back."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch

import caffe_bridge
from caffe_bridge import CaffeError, WeightsError, schema, weights
from caffe_bridge.convert.formats import READERS, WRITERS, convert
from caffe_bridge.convert.names import key, split_key, split_keys
from caffe_bridge.tools.convert import main

FILES = Path(__file__).parent / "reference" / "files"
PLAIN, PLAIN_H5, DEPLOY = FILES / "plain.caffemodel", FILES / "plain.caffemodel.h5", FILES / "deploy.prototxt"
SUFFIXES = [".caffemodel", ".caffemodel.h5", ".safetensors", ".pt", ".pth", ".hdf5"]


def arrays(path: Path) -> dict[tuple[str, int], np.ndarray]:
    """Every blob of a file, by the public readers of its format."""
    if path.suffix == ".safetensors":
        return {split_key(k): v.numpy() for k, v in safetensors.torch.load_file(path).items()}
    if path.suffix in (".pt", ".pth"):
        return {split_key(k): v.numpy() for k, v in torch.load(path, weights_only=True).items()}
    with weights.read(path) as source:
        return {(layer, i): a for layer, found in source.layers.items() for i, a in enumerate(found) if a is not None}


def assert_same(found: dict, wanted: dict) -> None:
    assert set(found) == set(wanted)
    for place, array in wanted.items():
        np.testing.assert_array_equal(found[place], array, err_msg=str(place))


class TestNames:
    @pytest.mark.parametrize("layer", ["conv1_1", "inception_3a/1x1", "a.b.c", "layers.x.blobs", "5", ".", "ünï", ""])
    def test_round_trip(self, layer):
        assert split_key(key(layer, 12)) == (layer, 12)

    @pytest.mark.parametrize(
        "name", ["conv1", "features.0.weight", "conv1.-1", "conv1.01", "conv1.1.", "conv1.9999999"]
    )
    def test_other_names_are_refused(self, name):
        with pytest.raises(WeightsError, match="LAYER.INDEX"):
            split_key(name)

    def test_names_of_a_net_state_dict(self):
        names = ["layers.conv1.blobs.0", "layers.a%2Eb%25.blobs.1"]
        assert split_keys(names) == {names[0]: ("conv1", 0), names[1]: ("a.b%", 1)}
        mixed = ["layers.conv1.blobs.0", "conv2.0"]
        assert split_keys(mixed) == {mixed[0]: ("layers.conv1.blobs", 0), mixed[1]: ("conv2", 0)}


class TestFormats:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_there_and_back(self, tmp_path, suffix):
        there, back = tmp_path / f"a{suffix}", tmp_path / "b.caffemodel"
        convert([str(PLAIN)], str(there))
        convert([str(there), str(DEPLOY)], str(back))
        assert_same(arrays(back), arrays(PLAIN))
        types = weights.read(back).types
        wanted = weights.read(PLAIN).types
        assert types == {name: wanted[name] for name in types}

    @pytest.mark.parametrize("first", SUFFIXES)
    @pytest.mark.parametrize("second", SUFFIXES)
    def test_every_pair(self, tmp_path, first, second):
        values = {
            ("conv.1", 0): np.float32([[1, 2], [3, 4]]),
            ("conv.1", 1): np.float32([5]),
            ("a/b", 0): np.ones((1, 1, 2)),
        }
        layers = [
            (("conv.1", "InnerProduct", ["x"], ["y"]), [values["conv.1", 0], values["conv.1", 1]]),
            (("a/b", "Scale", ["y"], ["y"]), [values["a/b", 0]]),
        ]
        weights.write_caffemodel(tmp_path / "a.caffemodel", layers, "n")
        convert([str(tmp_path / "a.caffemodel")], str(tmp_path / f"b{first}"))
        convert([str(tmp_path / f"b{first}")], str(tmp_path / f"c{second}"))
        found = arrays(tmp_path / f"c{second}")
        assert_same(found, values)
        assert found["a/b", 0].dtype == np.float64

    def test_safetensors_bring_the_definition_back(self, tmp_path):
        convert([str(PLAIN)], str(tmp_path / "a.safetensors"))
        convert([str(tmp_path / "a.safetensors")], str(tmp_path / "b.caffemodel"))
        convert([str(PLAIN)], str(tmp_path / "c.caffemodel"))
        assert (tmp_path / "b.caffemodel").read_bytes() == (tmp_path / "c.caffemodel").read_bytes()

    @pytest.mark.parametrize("name", ["v0", "v1", "v1_unpacked"])
    def test_old_generations_become_current(self, tmp_path, name):
        convert([str(FILES / f"{name}.caffemodel")], str(tmp_path / "a.caffemodel"))
        net = schema.NetParameter.FromString((tmp_path / "a.caffemodel").read_bytes())
        assert [layer.type for layer in net.layer] == ["Convolution", "InnerProduct"] and not net.layers
        shapes = [tuple(blob.shape.dim) for layer in net.layer for blob in layer.blobs]
        assert shapes == [(5, 3, 5, 5), (5,), (12, 100), (12,)]
        old = arrays(FILES / f"{name}.caffemodel")
        for place, array in arrays(tmp_path / "a.caffemodel").items():
            np.testing.assert_array_equal(array.ravel(), old[place].ravel())

    def test_legacy_ones_that_belong_to_the_shape_stay(self, tmp_path):
        net = schema.NetParameter()
        for name, type_, four in (("c", "Convolution", (1, 1, 1, 3)), ("ip", "InnerProduct", (1, 1, 1, 3))):
            blob = net.layer.add(name=name, type=type_).blobs.add(data=[1, 2, 3])
            blob.num, blob.channels, blob.height, blob.width = four
        (tmp_path / "a.caffemodel").write_bytes(net.SerializeToString())
        convert([str(tmp_path / "a.caffemodel")], str(tmp_path / "b.h5"))
        assert {k: v.shape for k, v in arrays(tmp_path / "b.h5").items()} == {("c", 0): (1, 1, 1, 3), ("ip", 0): (1, 3)}

    def test_hdf5_stores_shared_blobs_once_and_a_prototxt_restores_them(self, tmp_path):
        convert([str(PLAIN)], str(tmp_path / "a.h5"))
        assert set(arrays(tmp_path / "a.h5")) == set(arrays(PLAIN_H5))
        convert([str(DEPLOY), str(tmp_path / "a.h5")], str(tmp_path / "b.safetensors"))
        assert_same(arrays(tmp_path / "b.safetensors"), arrays(PLAIN))

    def test_a_blob_shared_with_an_unknown_one_is_an_error(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["data/x/1"] = np.ones(3)
        with pytest.raises(WeightsError, match=r"a\.h5: layer 'x' has no blob 0.*--model"):
            convert([str(tmp_path / "a.h5")], str(tmp_path / "b.pt"))

    def test_half_precision(self, tmp_path):
        tensors = {"a.0": torch.randn(3).half(), "a.1": torch.randn(3).bfloat16(), "b.0": torch.randn(2, 2).t()}
        torch.save(tensors, tmp_path / "a.pt")
        convert([str(tmp_path / "a.pt")], str(tmp_path / "b.safetensors"))
        kept = safetensors.torch.load_file(tmp_path / "b.safetensors")
        assert all(
            torch.equal(kept[name], tensors[name]) and kept[name].dtype == tensors[name].dtype for name in tensors
        )
        convert([str(tmp_path / "b.safetensors")], str(tmp_path / "c.caffemodel"))
        for (layer, i), array in arrays(tmp_path / "c.caffemodel").items():
            np.testing.assert_array_equal(array, tensors[key(layer, i)].float().numpy())

    def test_a_nets_state_dict(self, tmp_path):
        net = caffe_bridge.Net(DEPLOY, PLAIN)
        torch.save(net.state_dict(), tmp_path / "a.pt")
        safetensors.torch.save_model(net, tmp_path / "b.safetensors")
        convert([str(tmp_path / "a.pt"), str(DEPLOY)], str(tmp_path / "a.caffemodel"))
        convert([str(tmp_path / "b.safetensors"), str(DEPLOY)], str(tmp_path / "b.caffemodel"))
        assert_same(arrays(tmp_path / "a.caffemodel"), arrays(PLAIN))
        assert_same(arrays(tmp_path / "b.caffemodel"), arrays(PLAIN))

    def test_every_format_reads_what_it_writes(self):
        assert set(WRITERS) - {".py"} == set(READERS)


class TestErrors:
    def refused(self, sources, destination, message):
        with pytest.raises(CaffeError, match=message):
            convert([str(source) for source in sources], str(destination))
        assert not Path(destination).exists()

    def test_pickles_are_not_run(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        torch.save({"a.0": Bomb()}, tmp_path / "a.pt")
        self.refused([tmp_path / "a.pt"], tmp_path / "b.h5", "other objects are refused")
        (tmp_path / "b.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
        self.refused([tmp_path / "b.pt"], tmp_path / "b.h5", r"b\.pt")
        assert not (tmp_path / "ran").exists()

    def test_what_is_no_state_dict(self, tmp_path):
        for content, message in [
            ([1, 2], "holds a list"),
            ({"a.0": 3}, "is a int"),
            ({"conv.weight": torch.zeros(1)}, "LAYER.INDEX"),
            ({"a.1": torch.zeros(1), "b.0": torch.zeros(1)}, r"layer 'a' has no blob 0 \('a\.0'\)"),
            ({"a.999999": torch.zeros(1)}, "is blob 999999, but the file holds 1"),
        ]:
            torch.save(content, tmp_path / "a.pt")
            self.refused([tmp_path / "a.pt"], tmp_path / "b.h5", message)
        (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 no zip")
        self.refused([tmp_path / "a.pt"], tmp_path / "b.h5", "cannot be read as a torch file")
        (tmp_path / "a.pt").write_text("layer { }")
        self.refused([tmp_path / "a.pt"], tmp_path / "b.h5", "not a file as torch.save writes it")

    def test_broken_safetensors(self, tmp_path):
        convert([str(PLAIN)], str(tmp_path / "a.safetensors"))
        data = (tmp_path / "a.safetensors").read_bytes()
        for content in (b"", data[:-1], data[:100], b"\xff" * 8 + data[8:], data + b"x"):
            (tmp_path / "b.safetensors").write_bytes(content)
            self.refused([tmp_path / "b.safetensors"], tmp_path / "c.h5", r"b\.safetensors: ")

    def test_broken_metadata(self, tmp_path):
        tensors = {"a.0": torch.zeros(1)}
        safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"caffe_bridge.net": "layer {"})
        self.refused([tmp_path / "a.safetensors"], tmp_path / "b.h5", r"a\.safetensors \(metadata\)")

    def test_sources_and_names(self, tmp_path):
        self.refused([PLAIN, PLAIN_H5], tmp_path / "a.h5", "give one weights file")
        self.refused([DEPLOY], tmp_path / "a.h5", "no weights to convert")
        self.refused([PLAIN], tmp_path / "a.bin", "no format to write")
        self.refused([tmp_path / "a.bin"], tmp_path / "a.h5", "no format to read")
        self.refused([tmp_path / "none.caffemodel"], tmp_path / "a.h5", "No such file")
        self.refused([tmp_path / "none.prototxt", PLAIN], tmp_path / "a.h5", "none.prototxt")
        self.refused([PLAIN], tmp_path / "nowhere" / "a.safetensors", "does not exist")


class TestTool:
    def test_says_what_was_written(self, tmp_path, capsys):
        assert main([str(PLAIN_H5), "--model", str(DEPLOY), str(tmp_path / "a.caffemodel")]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{tmp_path / 'a.caffemodel'}: 13 blobs of 6 layers, ")
        assert_same(arrays(tmp_path / "a.caffemodel"), arrays(PLAIN))

    def test_says_what_was_left_out(self, tmp_path, capsys):
        (tmp_path / "m.prototxt").write_text('layer { name: "conv1" type: "Convolution" }')
        assert main([str(PLAIN), str(tmp_path / "a.h5"), "--model", str(tmp_path / "m.prototxt")]) == 0
        assert "left out, since the model has no such layers: bn, sc, ip_a, ip_b, score" in capsys.readouterr().out
        assert {layer for layer, _ in arrays(tmp_path / "a.h5")} == {"conv1"}

    def test_status_of_errors(self, tmp_path, capsys):
        from caffe_bridge.cli import run

        assert run(main, [str(tmp_path / "none.caffemodel"), str(tmp_path / "a.h5")]) == 2
        error = capsys.readouterr().err
        assert "none.caffemodel" in error and error.count("\n") == 1
        with pytest.raises(SystemExit) as stop:
            main(["one"])
        assert stop.value.code == 2
