"""Broken and malicious weights files: a WeightsError that names the file; no crash, no hang, no huge allocation."""

from __future__ import annotations

import os
import time
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from fuzzing.targets import read_solverstate, read_weights

from caffe_bridge import WeightsError, weights
from caffe_bridge.weights import wire

FILES = Path(__file__).parent / "reference" / "files"


@pytest.fixture
def small_caffemodel(tmp_path: Path) -> Path:
    path = tmp_path / "small.caffemodel"
    layers = [(("conv1", "Convolution", ["data"], ["conv1"]), [np.ones((2, 1, 3, 3)), np.ones(2, np.float32)])]
    weights.write_caffemodel(path, [*layers, (("relu1", "ReLU", ["conv1"], ["conv1"]), [])], "small")
    return path


def test_every_truncation_of_a_caffemodel(small_caffemodel: Path, tmp_path: Path) -> None:
    data = small_caffemodel.read_bytes()
    path = tmp_path / "cut.caffemodel"
    boundaries = [field.end for field in wire.fields(data, 0, len(data))]
    for length in range(len(data)):
        path.write_bytes(data[:length])
        if length in boundaries[1:]:
            read_weights(path)  # whole layers: nothing tells that more followed
            continue
        with pytest.raises(WeightsError) as error:
            read_weights(path)
        assert str(path) in str(error.value)
        if length not in (0, boundaries[0]):
            assert f"truncated at byte {length}" in str(error.value)
        if boundaries[0] + 12 < length < boundaries[1]:
            assert "inside layer 'conv1'" in str(error.value)


def test_truncation_inside_a_v0_layer_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes((FILES / "v0.caffemodel").read_bytes()[:5000])
    with pytest.raises(WeightsError, match="inside layer 'ip_a'"):
        weights.read(path)


@pytest.mark.parametrize("name", ["plain.caffemodel.h5", "snap_hdf5_iter_4.solverstate.h5"])
def test_truncations_of_hdf5(tmp_path: Path, name: str) -> None:
    data = (FILES / name).read_bytes()
    use = read_solverstate if "state" in name else read_weights
    path = tmp_path / "cut.h5"
    for length in [*range(200), *range(200, len(data), 101), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match="cut.h5"):
            use(path)


def test_what_is_no_weights_file(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    for content, message in [
        (b"", "is empty"),
        (b'name: "net"\nlayer { }', "a text file, beginning 'name"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x0a\x03net", "holds no layers"),
        (b"\xff" * 64, "not a .caffemodel"),
    ]:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            weights.read(path)
    for missing, message in [(tmp_path / "none", "No such file"), (tmp_path, "not a regular file")]:
        with pytest.raises(WeightsError, match=message):
            weights.read(missing)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="not a regular file"):
        weights.read(tmp_path / "pipe")


def layer_file(path: Path, blob: bytes) -> Path:
    path.write_bytes(wire.encode_bytes(100, wire.encode_bytes(1, b"ip") + wire.encode_bytes(7, blob)))
    return path


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (wire.encode_bytes(7, wire.encode_int(1, -1)), "dimension outside"),
        (wire.encode_bytes(7, wire.encode_int(1, 1 << 40)), "dimension outside"),
        (wire.encode_bytes(7, wire.encode_int(1, 1 << 30) * 8), "the file holds 0"),
        (wire.encode_bytes(7, wire.encode_int(1, 1) * 40), "more than 32 axes"),
        (wire.encode_bytes(7, wire.encode_bytes(1, b"\1" * 1000)), "more than 32 axes"),
        (wire.encode_int(1, -5) + wire.encode_int(2, 1), "dimension outside"),
        (b"".join(wire.encode_int(n, 1 << 30) for n in (1, 2, 3, 4)), "the file holds 0"),
        (wire.encode_bytes(5, b"12345"), "no whole number of 4-byte values"),
        (wire.encode_tag(5, wire.FIXED64) + bytes(8), "wrong wire type"),
        (wire.encode_int(10, 77) + wire.encode_bytes(12, bytes(4)), "unknown type 77"),
        (wire.encode_int(10, 1) + wire.encode_bytes(12, bytes(5)), "no whole number"),
        (wire.encode_tag(3, 3) * 200, "nested more than 100 deep|cut off|goes on"),
        (wire.encode_tag(3, 3) + wire.encode_tag(4, 4), "ends inside another"),
        (wire.encode_tag(3, 4), "never began"),
        (b"\x80" * 11, "longer than ten bytes"),
        (b"\x07", "no protobuf field"),
        (b"\x00\x00", "no protobuf field"),
    ],
)
def test_broken_blobs(tmp_path: Path, blob: bytes, message: str) -> None:
    path = layer_file(tmp_path / "a.caffemodel", blob)
    with pytest.raises(WeightsError, match=message) as error:
        _ = weights.read(path).layers["ip"]
    assert "a.caffemodel" in str(error.value) and "'ip'" in str(error.value)


def test_claimed_sizes_allocate_nothing(tmp_path: Path) -> None:
    shape = wire.encode_bytes(7, wire.encode_int(1, 1 << 20) * 3)
    path = layer_file(tmp_path / "a", shape + wire.encode_bytes(5, bytes(4000)))
    h5 = tmp_path / "b.h5"
    with h5py.File(h5, "w") as file:
        file.create_dataset("data/x/0", (1 << 20, 1 << 20), np.float32, chunks=(1 << 10, 1 << 10), compression=9)
    tracemalloc.start()
    try:
        for broken in (path, h5):
            with pytest.raises(WeightsError, match="holds 1000|would unpack to 4398046511104"):
                _ = dict(weights.read(broken).layers)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (wire.encode_bytes(100, b""), "more than 131072 layers"),
        (wire.encode_bytes(2, b""), "more than 131072 layers"),
    ],
)
def test_endless_lists_are_refused(tmp_path: Path, unit: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(unit * (1 << 18))
    with pytest.raises(WeightsError, match=message):
        weights.read(tmp_path / "a")


def test_alternating_fields_are_walked_in_linear_time(tmp_path: Path) -> None:
    two_floats_then_another = (wire.encode_tag(6, wire.FIXED32) + bytes(4)) * 2 + wire.encode_int(99, 1)
    path = layer_file(tmp_path / "a", two_floats_then_another * 50_000)
    began = time.process_time()
    weights.read(path)
    assert time.process_time() - began < 10  # looking ahead a megabyte each time would take minutes


def test_blob_in_too_many_pieces(tmp_path: Path) -> None:
    path = layer_file(tmp_path / "a", (wire.encode_bytes(5, bytes(4)) + wire.encode_int(99, 1)) * 70_000)
    with pytest.raises(WeightsError, match="pieces"):
        weights.read(path)


class TestHostileHdf5:
    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(WeightsError, match=message) as error:
            _ = dict(weights.read(path).layers)
        assert path.name in str(error.value)

    @pytest.mark.parametrize("place", ["data", "data/x", "data/x/0"])
    @pytest.mark.parametrize("kind", ["external", "soft"])
    @pytest.mark.parametrize("there", [True, False])
    def test_links_are_not_followed(self, tmp_path, place, kind, there):
        if there:
            with h5py.File(tmp_path / "other.h5", "w") as file:
                file.create_dataset("data/x/0", data=np.ones(3))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("kept/x/0", data=np.ones(3))
            link = (
                h5py.ExternalLink("other.h5", place)
                if kind == "external"
                else h5py.SoftLink(place.replace("data", "/kept"))
            )
            file[place] = link
        self.refused(tmp_path / "a.h5", "link into another file" if kind == "external" else "symbolic link")

    def test_links_in_solver_states_are_not_followed(self, tmp_path):
        for key in ("iter", "learned_net", "current_step", "history", "history/0", "streams"):
            path = tmp_path / "a.solverstate.h5"
            weights.write_solverstate(path, weights.SolverState(1, "net", 1, [np.ones(2)], b"x"))
            with h5py.File(path, "a") as file:
                del file[key]
                file[key] = h5py.ExternalLink("other.h5", key)
            with pytest.raises(WeightsError, match="link into another file"):
                weights.read_solverstate(path)

    def test_external_storage_is_not_read(self, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"password" * 10)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("data/x/0", (4,), np.float32, external=[(str(secret), 0, 16)])
        self.refused(tmp_path / "a.h5", "values in other files")
        weights.write_solverstate(tmp_path / "b.h5", weights.SolverState(history=[]))
        with h5py.File(tmp_path / "b.h5", "a") as file:
            file.create_dataset("learned_net", (1,), "S16", external=[(str(secret), 0, 16)])
        with pytest.raises(WeightsError, match="values in other files"):
            weights.read_solverstate(tmp_path / "b.h5")

    def test_filters_that_would_load_plugins_are_refused(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("data/x/0", data=np.ones(300, np.float32), chunks=(300,), scaleoffset=3)
        self.refused(tmp_path / "a.h5", "packed with HDF5 filters 6")

    def test_lzf_and_stray_orders_of_filters_are_refused(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("data/x/0", data=np.ones(300, np.float32), chunks=(300,), compression="lzf")
        self.refused(tmp_path / "a.h5", "packed with HDF5 filters 32000")
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((300,))
        properties.set_deflate(9)
        properties.set_shuffle()
        with h5py.File(tmp_path / "b.h5", "w") as file:
            group = file.create_group("data/x").id
            h5py.h5d.create(group, b"0", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((300,)), properties)
        self.refused(tmp_path / "b.h5", "packed with HDF5 filters 1, 2")

    def test_chunks_that_inflate_beyond_their_size(self, tmp_path):
        for shuffle in (False, True):
            path = tmp_path / f"{shuffle}.h5"
            with h5py.File(path, "w") as file:
                data = file.create_dataset("data/x/0", (16,), "f4", chunks=(16,), compression=9, shuffle=shuffle)
                data.id.write_direct_chunk((0,), zlib.compress(bytes(300 << 20), 9))
            self.refused(path, "a chunk of 64 bytes unpacks to more")

    def test_one_data_set_under_many_names(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("data/x/0", data=np.zeros(1 << 22, np.float32), compression=9)
            for i in range(1, 20):
                file[f"data/x/{i}"] = file["data/x/0"]
        self.refused(tmp_path / "a.h5", "would unpack to 335544320; if it is to be trusted")

    def test_a_chunk_larger_than_its_data_set(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("data/x/0", (4,), np.float32, chunks=(1 << 27,), maxshape=(None,), compression=9)
        self.refused(tmp_path / "a.h5", "would unpack to 536870912")

    @pytest.mark.parametrize("options", [{"shuffle": True}, {"fletcher32": True}, {}])
    def test_what_is_packed_is_read(self, tmp_path, options):
        values = np.arange(5000, dtype=np.float32).reshape(50, 100)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("data/x/0", data=values, chunks=(20, 30), compression=4, **options)
            file.create_dataset("data/x/1", data=values, chunks=(20, 30), **options)
        for array in weights.read(tmp_path / "a.h5").layers["x"]:
            np.testing.assert_array_equal(array, values)

    def test_virtual_data_sets_are_not_read(self, tmp_path):
        layout = h5py.VirtualLayout(shape=(4,), dtype=np.float32)
        layout[:] = h5py.VirtualSource("other.h5", "x", shape=(4,))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_group("data/x").create_virtual_dataset("0", layout)
        self.refused(tmp_path / "a.h5", "values in other files")

    def test_cycles(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            group = file.create_group("data/x")
            group["again"] = group
        self.refused(tmp_path / "a.h5", "linked twice")

    def test_depth(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_group("data/" + "/".join("x" * 40))
        self.refused(tmp_path / "a.h5", "nested more than 32 deep")

    @pytest.mark.parametrize("name", ["weight", "00", "-1", "1024", "99999999999", "٣"])
    def test_blob_names(self, tmp_path, name):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset(f"data/x/{name}", data=np.ones(3))
        self.refused(tmp_path / "a.h5", "is no layer's blob")

    def test_types(self, tmp_path):
        for value in ("text", np.array([(1, 2.0)], dtype="i4,f4"), np.array([1j]), h5py.Empty("f4")):
            with h5py.File(tmp_path / "a.h5", "w") as file:
                file["data/x/0"] = value
            self.refused(tmp_path / "a.h5", "holds no numbers")

    def test_no_data_group(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["weights"] = np.ones(3)
        self.refused(tmp_path / "a.h5", "no group 'data'")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["data"] = np.ones(3)
        self.refused(tmp_path / "b.h5", "no group 'data'")

    def test_solver_states(self, tmp_path):
        path = tmp_path / "a.h5"
        for key, value, message in [
            ("iter", np.arange(3), "not one integer"),
            ("iter", "text", "not one integer"),
            ("learned_net", 5, "not one string"),
            ("history", np.ones(3), "not a group"),
            ("history/7", np.ones(3), "has no blob 1"),
            ("streams", np.ones(3), "not a string of bytes"),
        ]:
            weights.write_solverstate(path, weights.SolverState(1, "net", 1, [np.ones(2)]))
            with h5py.File(path, "a") as file:
                if key in file:
                    del file[key]
                file[key] = value
            with pytest.raises(WeightsError, match=message):
                weights.read_solverstate(path)
        with pytest.raises(WeightsError, match="not a solver state"):
            weights.read_solverstate(FILES / "plain.caffemodel.h5")
