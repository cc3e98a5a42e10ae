"""Weights, mean files and solver states: what Caffe wrote is read, what we write is what Caffe writes."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_bridge import WeightsError, schema, weights
from caffe_bridge.weights import blobproto, wire

FILES = Path(__file__).parent / "reference" / "files"
PLAIN, PLAIN_H5 = FILES / "plain.caffemodel", FILES / "plain.caffemodel.h5"


def save(path: Path, message) -> Path:
    path.write_bytes(message.SerializeToString())
    return path


def one_blob(**fields) -> schema.NetParameter:
    net = schema.NetParameter(name="n")
    blob = net.layer.add(name="ip", type="InnerProduct").blobs.add()
    for name, value in fields.items():
        if name == "shape":
            blob.shape.dim.extend(value)
        elif isinstance(value, list):
            getattr(blob, name).extend(value)
        else:
            setattr(blob, name, value)
    return net


def as_dict(source: weights.Weights) -> dict[str, list[np.ndarray]]:
    return {layer: arrays for layer, arrays in source.layers.items() if arrays}


class TestReading:
    def test_agrees_with_protobuf(self):
        net = schema.NetParameter.FromString(PLAIN.read_bytes())
        with weights.read(PLAIN) as source:
            assert source.name == net.name
            assert list(source.blobs) == [layer.name for layer in net.layer]
            assert source.types == {layer.name: layer.type for layer in net.layer}
            for layer in net.layer:
                arrays = source.layers[layer.name]
                assert [a.shape for a in arrays] == [tuple(b.shape.dim) for b in layer.blobs]
                for array, blob in zip(arrays, layer.blobs):
                    np.testing.assert_array_equal(array.reshape(-1), np.array(blob.data, np.float32))

    @pytest.mark.parametrize("name", ["v0", "v1", "v1_unpacked"])
    def test_old_generations_agree_with_protobuf(self, name):
        net = schema.NetParameter.FromString((FILES / f"{name}.caffemodel").read_bytes())
        source = weights.read(FILES / f"{name}.caffemodel")
        old = [entry.layer if entry.HasField("layer") else entry for entry in net.layers]
        assert source.types == {"conv1": "Convolution", "ip_a": "InnerProduct"}
        for layer in old:
            for array, blob in zip(source.layers[layer.name], layer.blobs, strict=True):
                assert array.shape == (blob.num, blob.channels, blob.height, blob.width)
                np.testing.assert_array_equal(array.reshape(-1), np.array(blob.double_data or blob.data))

    def test_arrays_are_read_only_views_of_the_file(self):
        for path in (PLAIN, PLAIN_H5, FILES / "v1_unpacked.caffemodel"):
            with weights.read(path) as source:
                array = source.layers["conv1"][0]
            assert not array.flags.owndata and not array.flags.writeable
            assert np.isfinite(array).all(), "the view outlives the closed file"

    def test_hdf5_twin(self):
        with weights.read(PLAIN) as binary, weights.read(PLAIN_H5) as twin:
            assert twin.is_hdf5 and not binary.is_hdf5
            assert set(binary.blobs) == set(twin.blobs)
            assert twin.blobs["ip_b"] == [], "shared blobs lie with their owner"
            for layer, arrays in twin.layers.items():
                for a, b in zip(arrays, binary.layers[layer]):
                    np.testing.assert_array_equal(a, b)

    def test_content_decides_the_format(self, tmp_path):
        (tmp_path / "a.caffemodel").write_bytes(PLAIN_H5.read_bytes())
        (tmp_path / "b.h5").write_bytes(PLAIN.read_bytes())
        assert weights.read(tmp_path / "a.caffemodel").is_hdf5
        assert not weights.read(tmp_path / "b.h5").is_hdf5

    def test_definition_is_the_net_without_blobs(self):
        source = weights.read(PLAIN)
        want = schema.NetParameter.FromString(PLAIN.read_bytes())
        got = source.definition()
        assert [(layer.name, layer.type, list(layer.bottom)) for layer in got.layer] == [
            (layer.name, layer.type, list(layer.bottom)) for layer in want.layer
        ]
        assert not any(layer.blobs for layer in got.layer)
        assert got.layer[1].convolution_param == want.layer[1].convolution_param
        assert weights.read(PLAIN_H5).definition() is None
        v1 = weights.read(FILES / "v1.caffemodel").definition()
        assert [layer.type for layer in v1.layer] == ["Convolution", "InnerProduct"] and not v1.layers

    @pytest.mark.parametrize(
        ("type_", "dtype"), [("DOUBLE", "<f8"), ("FLOAT", "<f4"), ("FLOAT16", "<f2"), ("INT", "<i4"), ("UINT", "<u4")]
    )
    def test_nvcaffe_raw_data(self, tmp_path, type_, dtype):
        values = np.arange(6).astype(dtype)
        net = one_blob(shape=[2, 3], raw_data=values.tobytes(), raw_data_type=schema.Type.Value(type_))
        array = weights.read(save(tmp_path / "a", net)).layers["ip"][0]
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, values.reshape(2, 3))

    def test_packed_and_unpacked_pieces_are_joined(self, tmp_path):
        blob = wire.encode_bytes(5, struct.pack("<2f", 1, 2))
        blob += b"".join(wire.encode_tag(5, wire.FIXED32) + struct.pack("<f", v) for v in (3, 4, 5))
        blob += wire.encode_int(99, 7) + wire.encode_tag(5, wire.FIXED32) + struct.pack("<f", 6)
        blob += wire.encode_bytes(7, wire.encode_int(1, 2)) + wire.encode_bytes(7, wire.encode_bytes(1, b"\x03"))
        layer = wire.encode_bytes(1, b"ip") + wire.encode_bytes(7, blob)
        (tmp_path / "a").write_bytes(wire.encode_bytes(100, layer))
        array = weights.read(tmp_path / "a").layers["ip"][0]
        np.testing.assert_array_equal(array, [[1, 2, 3], [4, 5, 6]])

    def test_long_unpacked_runs_and_doubles(self, tmp_path):
        values = np.random.default_rng(0).standard_normal(5000)
        blob = b"".join(wire.encode_tag(8, wire.FIXED64) + struct.pack("<d", v) for v in values)
        blob += wire.encode_bytes(7, wire.encode_bytes(1, wire.encode_varint(5000)))
        (tmp_path / "a").write_bytes(wire.encode_bytes(100, wire.encode_bytes(1, b"x") + wire.encode_bytes(7, blob)))
        np.testing.assert_array_equal(weights.read(tmp_path / "a").layers["x"][0], values)

    def test_more_than_two_gigabytes(self, tmp_path):
        count = 600_000_000
        before = wire.encode_bytes(7, wire.encode_bytes(1, wire.encode_varint(count))) + wire.encode_prefix(
            5, 4 * count
        )
        blob = wire.encode_prefix(7, len(before) + 4 * count) + before
        layer = wire.encode_bytes(1, b"ip") + blob
        with open(tmp_path / "a", "wb") as file:  # sparse: takes no room on the disk
            file.write(wire.encode_prefix(100, len(layer) + 4 * count) + layer)
            file.seek(4 * count - 4, os.SEEK_CUR)
            file.write(struct.pack("<f", 2.5))
            file.write(wire.encode_bytes(100, wire.encode_bytes(1, b"last")))
        with weights.read(tmp_path / "a") as source:
            array = source.layers["ip"][0]
            assert list(source.blobs) == ["ip", "last"]
            assert array.shape == (count,) and array[-1] == 2.5 and not array[:1000].any()

    def test_unknown_fields_and_groups_are_skipped(self, tmp_path):
        group = wire.encode_tag(9, 3) + wire.encode_int(1, 5) + wire.encode_bytes(2, b"xx") + wire.encode_tag(9, 4)
        layer = group + wire.encode_bytes(1, b"ip") + wire.encode_tag(3000, wire.FIXED64) + bytes(8)
        layer += wire.encode_bytes(7, wire.encode_bytes(5, bytes(4)) + group)
        (tmp_path / "a").write_bytes(wire.encode_int(77, -1) + wire.encode_bytes(100, layer) + group)
        assert weights.read(tmp_path / "a").layers["ip"][0].shape == ()

    def test_v1_layers_hide_current_ones(self, tmp_path):
        net = schema.NetParameter()
        net.layer.add(name="new", type="ReLU")
        net.layers.add(name="old", type=schema.V1LayerParameter.RELU)
        assert weights.read(save(tmp_path / "a", net)).types == {"old": "ReLU"}
        net.layers.add().layer.name = "older"
        net.layers[-1].layer.type = "relu"
        net.layers.add().layer.type = "padding"
        assert weights.read(save(tmp_path / "b", net)).types == {"older": "ReLU"}

    def test_hdf5_integers_chunks_and_nested_names(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset(
                "data/inception/1x1/0", data=np.arange(4000.0).reshape(40, 100), chunks=True, compression=4
            )
            file.create_dataset("data/inception/1x1/1", data=np.arange(3, dtype=">i2"))
            file.create_dataset("data/top/0", data=np.float16([1, 2]))
            file.create_group("data/relu")
        source = weights.read(tmp_path / "a.h5")
        assert set(source.blobs) == {"inception/1x1", "top", "relu"}
        np.testing.assert_array_equal(source.layers["inception/1x1"][0], np.arange(4000.0).reshape(40, 100))
        np.testing.assert_array_equal(source.layers["inception/1x1"][1], [0, 1, 2])
        source.close()
        with pytest.raises(WeightsError, match=r"a\.h5: layer 'inception/1x1', blob 0: the file is closed"):
            source.layers["inception/1x1"]

    def test_hdf5_user_block(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
            file.create_dataset("data/x/0", data=np.float32([1, 2, 3]))
        np.testing.assert_array_equal(weights.read(tmp_path / "a.h5").layers["x"][0], [1, 2, 3])


class TestWriting:
    def test_caffemodel_is_caffes_byte_for_byte(self, tmp_path):
        net = schema.NetParameter.FromString(PLAIN.read_bytes())
        source = weights.read(PLAIN)
        weights.write_caffemodel(tmp_path / "a", ((layer, source.layers[layer.name]) for layer in net.layer), net.name)
        assert (tmp_path / "a").read_bytes() == PLAIN.read_bytes()

    def test_caffemodel_from_names(self, tmp_path):
        values = [torch.randn(3, 2), np.random.randn(3), torch.randn(4, dtype=torch.bfloat16), np.float32(2.5)]
        weights.write_caffemodel(tmp_path / "a", [(("ip", "InnerProduct", ["x"], ["y"]), values)], "tiny")
        net = schema.NetParameter.FromString((tmp_path / "a").read_bytes())
        assert net.name == "tiny"
        assert (net.layer[0].type, list(net.layer[0].bottom), list(net.layer[0].top)) == ("InnerProduct", ["x"], ["y"])
        assert [tuple(b.shape.dim) for b in net.layer[0].blobs] == [(3, 2), (3,), (4,), ()]
        assert len(net.layer[0].blobs[1].double_data) == 3, "float64 stays float64, as in Caffe"
        for array, value in zip(weights.read(tmp_path / "a").layers["ip"], values):
            np.testing.assert_array_equal(array, np.asarray(value.float() if torch.is_tensor(value) else value))

    def test_empty_and_strided_arrays(self, tmp_path):
        values = [np.zeros((0, 3), np.float32), np.arange(12, dtype=np.float32).reshape(3, 4).T]
        for name in ("a.caffemodel", "a.h5"):
            definition = schema.NetParameter()
            definition.layer.add(name="x")
            weights.save_net(tmp_path / name, definition, {"x": values})
            for array, value in zip(weights.read(tmp_path / name).layers["x"], values, strict=True):
                np.testing.assert_array_equal(array, value)

    def test_hdf5_layout(self, tmp_path):
        source = weights.read(PLAIN)
        owners = {"ip_b": [("ip_a", 0), ("ip_a", 1)]}
        weights.write_hdf5(tmp_path / "a.h5", source.layers, owners)
        found: dict[str, dict] = {}
        for path in (tmp_path / "a.h5", PLAIN_H5):
            with h5py.File(path) as file:
                entries = found.setdefault(str(path), {})
                file.visititems(lambda n, o, e=entries: e.update({n: (getattr(o, "shape", None), dict(o.attrs))}))
        ours, caffes = found.values()
        assert ours == caffes

    def test_hdf5_shared_tensors_are_stored_once(self, tmp_path):
        weight = torch.randn(2, 2)
        weights.write_hdf5(tmp_path / "a.h5", {"a": [weight], "b/c": [weight], "b/d": [torch.randn(1)]})
        assert {name: len(blobs) for name, blobs in weights.read(tmp_path / "a.h5").blobs.items()} == {
            "a": 1,
            "b/c": 0,
            "b/d": 1,
        }

    @pytest.mark.parametrize("name", ["", "a//b", "/a", "a/.", "a/"])
    def test_hdf5_refuses_names_it_cannot_hold(self, tmp_path, name):
        with pytest.raises(WeightsError, match="cannot hold a layer named"):
            weights.write_hdf5(tmp_path / "a.h5", {name: []})
        assert os.listdir(tmp_path) == []

    def test_hdf5_refuses_a_layer_in_place_of_a_blob(self, tmp_path):
        for layers in ({"a": [np.zeros(1)], "a/0": [np.zeros(1)]}, {"a/0": [], "a": [np.zeros(1)]}):
            with pytest.raises(WeightsError, match="another layer's blob"):
                weights.write_hdf5(tmp_path / "a.h5", layers)

    def test_a_failed_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "a.caffemodel"
        path.write_bytes(b"old")

        def layers():
            yield ("x", "ReLU", [], []), [np.zeros(10)]
            raise OSError(28, "No space left on device")

        with pytest.raises(WeightsError, match=r"a\.caffemodel: cannot be written: No space left on device"):
            weights.write_caffemodel(path, layers())
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.caffemodel"]

    def test_disk_full(self, tmp_path):
        code = f"""
import resource, numpy as np, signal
from caffe_bridge import schema, weights, WeightsError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, {resource.RLIM_INFINITY}))
net = schema.NetParameter(); net.layer.add(name="x")
big = [np.zeros(100000, np.float32)]
for name in ("a.caffemodel", "a.caffemodel.h5", "a.solverstate", "a.solverstate.h5"):
    try:
        if "solver" in name:
            weights.write_solverstate(name, weights.SolverState(history=big))
        else:
            weights.save_net(name, net, {{"x": big}})
    except WeightsError as error:
        assert str(error).startswith(name + ": cannot be written"), error
        print("refused")
"""
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (run.returncode, run.stdout.split()) == (0, ["refused"] * 4), run.stderr
        assert os.listdir(tmp_path) == []

    def test_missing_folder_and_folder_in_place(self, tmp_path):
        with pytest.raises(WeightsError, match="folder .*nowhere does not exist"):
            weights.write_blobproto(tmp_path / "nowhere" / "a", np.zeros(1))
        with pytest.raises(WeightsError, match="is no file"):
            weights.write_blobproto(tmp_path, np.zeros(1))

    def test_more_than_protobuf_allows_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(blobproto, "MAX_MESSAGE", 1000)
        layer = ("x", "InnerProduct", [], [])
        weights.write_caffemodel(tmp_path / "a", [(layer, [np.zeros(200, np.float32)])])
        with pytest.raises(WeightsError, match=r"b: .* 2 GB .* save them as HDF5"):
            weights.write_caffemodel(tmp_path / "b", [(layer, [np.zeros(125, np.float32)])] * 2)
        with pytest.raises(WeightsError, match=r"b: .* 2 GB .* snapshot_format: HDF5"):
            weights.write_solverstate(tmp_path / "b", weights.SolverState(history=[np.zeros(300, np.float32)]))
        with pytest.raises(WeightsError, match="2 GB"):
            weights.write_blobproto(tmp_path / "b", np.zeros(300, np.float32))
        assert os.listdir(tmp_path) == ["a"]

    def test_permissions_follow_the_umask_and_links_are_kept(self, tmp_path):
        weights.write_blobproto(tmp_path / "real", np.zeros(3))
        (tmp_path / "link").symlink_to("real")
        weights.write_blobproto(tmp_path / "link", np.ones(3))
        assert (tmp_path / "link").is_symlink()
        assert weights.read_blobproto(tmp_path / "real").ravel().tolist() == [1, 1, 1]
        (tmp_path / "plain").touch()
        assert (tmp_path / "real").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_opencv_reads_what_we_write(self, tmp_path):
        cv2 = pytest.importorskip("cv2")
        prototxt = 'input: "data" input_shape { dim: 1 dim: 3 } layer { name: "ip" type: "InnerProduct" bottom: "data" '
        prototxt += 'top: "ip" inner_product_param { num_output: 2 } }'
        (tmp_path / "a.prototxt").write_text(prototxt)
        w, b = np.random.randn(2, 3).astype(np.float32), np.random.randn(2).astype(np.float32)
        weights.write_caffemodel(tmp_path / "a.caffemodel", [(("ip", "InnerProduct", ["data"], ["ip"]), [w, b])])
        net = cv2.dnn.readNetFromCaffe(str(tmp_path / "a.prototxt"), str(tmp_path / "a.caffemodel"))
        x = np.random.randn(1, 3).astype(np.float32)
        net.setInput(x)
        np.testing.assert_allclose(net.forward(), x @ w.T + b, rtol=1e-5, atol=1e-6)


def parameters(source: weights.Weights, dtype=torch.float32) -> dict[str, list[torch.Tensor]]:
    return {k: [torch.zeros(a.shape, dtype=dtype) for a in v] for k, v in as_dict(source).items()}


class TestLoading:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    def test_values_in_any_dtype(self, dtype):
        with weights.read(PLAIN) as source:
            params = parameters(source, dtype)
            report = weights.load_into(params, source)
            for layer, tensors in params.items():
                for tensor, array in zip(tensors, source.layers[layer]):
                    assert torch.equal(tensor, torch.tensor(array).to(dtype))
        assert len(report.loaded) == 13 and not report.missing and not report.unused
        assert "loaded 13 parameters of 6 layers" in str(report)

    def test_parameters_are_changed_in_place_and_versions_move(self):
        with weights.read(PLAIN) as source:
            weight = torch.nn.Parameter(torch.zeros(5, 3, 5, 5))
            before = weight._version
            weights.load_into({"conv1": [weight, torch.zeros(5)]}, source)
            assert weight.requires_grad and weight._version > before
            np.testing.assert_array_equal(weight.detach().numpy(), source.layers["conv1"][0])

    @pytest.mark.parametrize("name", ["v0", "v1", "v1_unpacked"])
    def test_legacy_shapes_match_from_the_last_axis(self, name):
        with weights.read(FILES / f"{name}.caffemodel") as source:
            shapes = {"conv1": [(5, 3, 5, 5), (5,)], "ip_a": [(12, 100), (12,)]}
            params = {layer: [torch.zeros(s) for s in shapes[layer]] for layer in shapes}
            weights.load_into(params, source)
            for layer, arrays in source.layers.items():
                for tensor, array in zip(params[layer], arrays):
                    np.testing.assert_array_equal(tensor.numpy().ravel(), array.ravel().astype(np.float32))
            with pytest.raises(WeightsError, match="shape"):
                weights.load_into({"ip_a": [torch.zeros(1, 1, 1, 12, 100), torch.zeros(12)]}, source)

    def test_current_shapes_match_exactly(self, tmp_path):
        path = save(tmp_path / "a", one_blob(shape=[1, 1, 1, 3], data=[1, 2, 3]))
        with pytest.raises(WeightsError, match=r"\(1, 1, 1, 3\) in the file, \(3,\) in the net"):
            weights.load_into({"ip": [torch.zeros(3)]}, weights.read(path))

    def test_mismatch_names_everything_and_changes_nothing(self):
        with weights.read(PLAIN) as source:
            params = parameters(source)
            params["score"][0] = torch.zeros(7, 24)
            with pytest.raises(WeightsError) as error:
                weights.load_into(params, source)
            for part in (
                "plain.caffemodel",
                "'score'",
                "InnerProduct",
                "(5, 24)",
                "(7, 24)",
                "rename",
                "ignore_shapes",
            ):
                assert part in str(error.value)
            assert not any(t.any() for tensors in params.values() for t in tensors)
            report = weights.load_into(params, source, ignore_shapes=True)
        assert list(report.mismatched) == ["score"] and not params["score"][1].any() and params["conv1"][0].any()
        assert report.missing == [] and "left as it was: layer 'score'" in str(report)

    def test_blob_counts_must_agree(self):
        with weights.read(PLAIN) as source:
            for params in ({"conv1": [torch.zeros(5, 3, 5, 5)]}, {"relu1": [torch.zeros(1)]}, {"conv1": []}):
                with pytest.raises(WeightsError, match="the file holds . blobs, the net's layer has"):
                    weights.load_into(params, source)

    def test_unmatched_layers_are_reported(self):
        with weights.read(PLAIN) as source:
            params = {"conv1": [torch.zeros(5, 3, 5, 5), torch.zeros(5)], "fc9": [torch.zeros(1)]}
            report = weights.load_into(params, source)
        assert report.missing == ["fc9"]
        assert report.unused == ["bn", "sc", "ip_a", "ip_b", "score"]
        assert report.loaded == [("conv1", 0), ("conv1", 1)]
        assert "fc9" in str(report) and "score" in str(report)

    def test_hdf5_leaves_out_shared_parameters(self):
        with weights.read(PLAIN) as full, weights.read(PLAIN_H5) as source:
            params = parameters(full)
            with pytest.raises(WeightsError, match="'ip_b'"):
                weights.load_into(params, source)
            owners = {"ip_b": [("ip_a", 0), ("ip_a", 1)]}
            report = weights.load_into(params, source, shared=owners)
            assert not report.missing
            params["ip_b"] = params["ip_a"]
            report = weights.load_into(params, source)
            assert not report.missing and torch.equal(params["ip_b"][0], torch.tensor(full.layers["ip_a"][0]))

    def test_loading_through_a_sharing_layer_loads_the_owner(self):
        with weights.read(PLAIN) as source:
            weight, bias = torch.zeros(12, 100), torch.zeros(12)
            params = {"owner": [weight, bias], "ip_b": [weight, bias]}
            report = weights.load_into(params, source)
            assert ("owner", 0) in report.loaded and report.missing == []

    def test_parameters_shared_under_another_shape(self):
        with weights.read(PLAIN) as source:
            params = {"ip_a": [torch.zeros(1200, 1), torch.zeros(12)]}
            with pytest.raises(WeightsError, match="shape"):
                weights.load_into(params, source)
            weights.load_into(params, source, shared={"ip_a": [("owner", 0), ("ip_a", 1)]})
            np.testing.assert_array_equal(params["ip_a"][0].ravel(), source.layers["ip_a"][0].ravel())

    def test_broken_blobs_matter_only_where_they_are_used(self, tmp_path):
        path = save(tmp_path / "a.caffemodel", one_blob(shape=[2, 2], data=[1, 2, 3]))
        source = weights.read(path)
        weights.load_into({"other": [torch.zeros(1)]}, source)
        message = r"a\.caffemodel: layer 'ip' \(InnerProduct\), blob 0: its shape \(2, 2\) takes 4 values, .* holds 3"
        with pytest.raises(WeightsError, match=message):
            weights.load_into({"ip": [torch.zeros(2, 2)]}, source)
        with pytest.raises(WeightsError, match=message):
            source.layers["ip"]


class TestMeanFiles:
    def test_reads_caffes_and_writes_the_same(self, tmp_path):
        mean = weights.read_blobproto(FILES / "mean.binaryproto")
        assert mean.shape == (1, 3, 20, 24) and mean.flags.writeable
        weights.write_blobproto(tmp_path / "a", mean)
        assert (tmp_path / "a").read_bytes() == (FILES / "mean.binaryproto").read_bytes()

    def test_other_ranks(self, tmp_path):
        for array in (np.random.randn(2, 1, 2, 1, 2), np.float32([1, 2])):
            weights.write_blobproto(tmp_path / "a", array)
            back = weights.read_blobproto(tmp_path / "a")
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back.ravel(), array.ravel())


class TestSolverStates:
    def test_binary_and_hdf5_agree(self):
        binary = weights.read_solverstate(FILES / "snap_binaryproto_iter_4.solverstate")
        twin = weights.read_solverstate(FILES / "snap_hdf5_iter_4.solverstate.h5")
        assert (binary.iter, binary.current_step) == (twin.iter, twin.current_step) == (4, 1)
        assert binary.learned_net == "snap_binaryproto_iter_4.caffemodel"
        assert twin.learned_net == "snap_hdf5_iter_4.caffemodel.h5"
        for a, b in zip(binary.history, twin.history, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)

    def test_binary_is_caffes_byte_for_byte(self, tmp_path):
        path = FILES / "snap_binaryproto_iter_8.solverstate"
        weights.write_solverstate(tmp_path / "a.solverstate", weights.read_solverstate(path))
        assert (tmp_path / "a.solverstate").read_bytes() == path.read_bytes()

    def test_hdf5_layout(self, tmp_path):
        path = FILES / "snap_hdf5_iter_4.solverstate.h5"
        weights.write_solverstate(tmp_path / "a.h5", weights.read_solverstate(path))
        with h5py.File(path) as caffes, h5py.File(tmp_path / "a.h5") as ours:
            for name in ("iter", "current_step", "learned_net", *(f"history/{i}" for i in range(11))):
                assert ours[name].id.get_type().equal(caffes[name].id.get_type()), name
                assert ours[name].shape == caffes[name].shape
                np.testing.assert_array_equal(ours[name][()], caffes[name][()])
            assert set(ours) == set(caffes) and set(ours["history"]) == set(caffes["history"])

    @pytest.mark.parametrize("name", ["a.solverstate", "a.solverstate.h5"])
    def test_round_trip_with_streams_and_without_a_net(self, tmp_path, name):
        state = weights.SolverState(7, None, 2, [torch.randn(2, 3), np.zeros(0, np.float32)], b'{"numpy": 1}')
        weights.write_solverstate(tmp_path / name, state)
        back = weights.read_solverstate(tmp_path / name)
        assert (back.iter, back.learned_net, back.current_step, back.streams) == (7, None, 2, b'{"numpy": 1}')
        np.testing.assert_array_equal(back.history[0], state.history[0].numpy())
        assert back.history[1].shape == (0,)

    def test_protobuf_skips_the_streams(self, tmp_path):
        weights.write_solverstate(tmp_path / "a", weights.SolverState(3, "net", 1, [np.ones(2)], b"xyz"), hdf5=False)
        message = schema.SolverState.FromString((tmp_path / "a").read_bytes())
        assert (message.iter, message.learned_net, message.current_step) == (3, "net", 1)


def test_names_that_are_no_utf8_are_text_everywhere(tmp_path):
    layer = wire.encode_bytes(1, b"\xff\xfe") + wire.encode_bytes(2, b"ReLU") + wire.encode_bytes(3, b"caf\xe9")
    (tmp_path / "a").write_bytes(wire.encode_bytes(100, layer))
    source = weights.read(tmp_path / "a")
    assert list(source.blobs) == ["\\xff\\xfe"]
    (stored,) = source.definition().layer
    assert (stored.name, list(stored.bottom)) == ("\\xff\\xfe", ["caf\\xe9"])


def test_both_formats_hold_the_same_bits(tmp_path):
    bits = np.array([0x7FC12345, 0xFF800000, 0x00000001, 0x80000000, 0x3F800001], np.uint32)
    blobs = {
        "plain": [bits.view(np.float32), np.array([[np.pi, -0.0]])],
        "nested/name": [torch.randn(2, 3), np.zeros((2, 0, 3), np.float32), np.float32(2.5)],
        "nothing": [],
    }
    definition = schema.NetParameter()
    for name in blobs:
        definition.layer.add(name=name, type="Scale")
    contents = []
    layers: Mapping[str, list] = blobs
    for name in ("a.caffemodel", "b.caffemodel.h5", "c.caffemodel", "d.h5"):
        weights.save_net(tmp_path / name, definition, layers)
        layers = weights.read(tmp_path / name).layers
        contents.append({k: [(a.dtype.str, a.shape, a.tobytes()) for a in v] for k, v in layers.items()})
    assert contents[0]["plain"][0][2] == bits.tobytes() and contents[0]["plain"][1][0] == "<f8"
    assert all(content == contents[0] for content in contents)
