import gc

import h5py
import numpy as np
import pytest
import torch
from data_layers import check_resuming, run
from layer_cases import make_layer

import caffe_bridge
from caffe_bridge import CaffeError, pycaffe


def write(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.fixture
def source(tmp_path):
    """Three files of 4, 1 and 3 rows, numbered through in `label`."""
    first = 0
    for i, rows in enumerate((4, 1, 3)):
        numbers = np.arange(first, first + rows)
        write(tmp_path / f"{i}.h5", data=np.float64(numbers)[:, None, None] * np.ones((2, 3)) / 3, label=numbers)
        first += rows
    (tmp_path / "list").write_text("".join(f"{tmp_path}/{i}.h5\n" for i in range(3)))
    return tmp_path / "list"


def hdf5_data(source, batch_size=3, shuffle="false", tops=("data", "label"), more="", phase="TEST"):
    names = " ".join(f'top: "{name}"' for name in tops)
    return make_layer(
        f'type: "HDF5Data" {names} hdf5_data_param {{ source: "{source}" batch_size: {batch_size} '
        f"shuffle: {shuffle} }} {more}",
        phase=phase,
    )


def labels(layer, passes):
    return torch.cat([tops[1] for tops in run(layer, passes)]).tolist()


def test_batches_run_over_files_and_epochs(source):
    layer = hdf5_data(source)
    assert layer.top_shapes([]) == [(3, 2, 3), (3,)]
    data, numbers = (torch.cat(parts) for parts in zip(*run(layer, 6)))
    assert numbers.tolist() == (list(range(8)) * 3)[:18] and data.dtype == numbers.dtype == torch.float32
    wanted = np.float32(np.float64(numbers) / 3)[:, None, None]
    np.testing.assert_array_equal(data, np.broadcast_to(wanted, data.shape))


def test_solvers_share_the_rows(source, one_of_three):
    layer = hdf5_data(source, 2, phase="TRAIN")
    wanted = [i % 8 for i in range(60) if i % 3 == 1]
    assert labels(layer, 3) == wanted[:6]
    again = hdf5_data(source, 2, phase="TRAIN")
    again.set_stream_state(layer.stream_state())
    assert labels(layer, 3) == labels(again, 3) == wanted[6:12]
    assert labels(hdf5_data(source, 4), 1) == [0, 1, 2, 3]


def test_batches_larger_than_the_data(source):
    assert labels(hdf5_data(source, 20), 1) == (list(range(8)) * 3)[:20]


def test_one_file_and_one_top(source, tmp_path):
    (tmp_path / "one").write_text(f"{tmp_path}/2.h5")
    layer = hdf5_data(tmp_path / "one", 4, tops=("label",))
    assert [tops[0].tolist() for tops in run(layer, 2)] == [[5, 6, 7, 5], [6, 7, 5, 6]]


def test_shuffling_keeps_files_together(source):
    seen = labels(hdf5_data(source, 8, "true"), 5)
    files = [0, 0, 0, 0, 1, 2, 2, 2]
    epochs = [[int(number) for number in seen[i : i + 8]] for i in range(0, 40, 8)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(8))
        assert sum(files[a] != files[b] for a, b in zip(epoch, epoch[1:])) == 2
    assert len(set(map(tuple, epochs))) > 1


@pytest.mark.parametrize("done", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("shuffle", ["false", "true"])
def test_resuming(source, shuffle, done):
    layers = [hdf5_data(source, shuffle=shuffle) for _ in range(2)]
    run(layers[0], done)
    check_resuming(*layers, passes=6)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "u1", "<i8"])
def test_kinds_of_numbers(tmp_path, dtype):
    write(tmp_path / "a.h5", data=np.arange(6, dtype=dtype).reshape(3, 2))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_dataset("packed", data=np.arange(6, dtype=dtype).reshape(3, 2), compression="gzip")
    (tmp_path / "list").write_text(str(tmp_path / "a.h5"))
    plain, packed = hdf5_data(tmp_path / "list", tops=("data", "packed"))()
    assert plain.tolist() == packed.tolist() == [[0, 1], [2, 3], [4, 5]]


def damage(path, what):
    if what == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif what == "absent":
        path.unlink()
    elif what == "foreign":
        path.write_text("no HDF5")
    elif what == "huge":
        with h5py.File(path, "w") as file:
            file.create_dataset("data", (1 << 20, 1 << 30), "f4", chunks=(1, 1024))
    else:
        arrays = {
            "no label": {"data": np.zeros((2, 2, 3))},
            "strings": {"data": np.array([b"x", b"y"]), "label": np.zeros(2)},
            "scalar": {"data": np.float32(1), "label": np.zeros(1)},
            "no rows": {"data": np.zeros((0, 2, 3)), "label": np.zeros(0)},
            "fewer": {"data": np.zeros((2, 2, 3)), "label": np.zeros(1)},
            "group": {"data/inner": np.zeros((2, 2, 3)), "label": np.zeros(2)},
        }
        write(path, **arrays[what])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", "0.h5"),
        ("absent", "0.h5: No such file"),
        ("foreign", "0.h5"),
        ("huge", "0.h5"),
        ("no label", "0.h5: holds no data set 'label'"),
        ("strings", "0.h5: /data holds no numbers"),
        ("scalar", "no rows"),
        ("no rows", "no rows"),
        ("fewer", "'label' has 1 rows, 'data' 2"),
        ("group", "'data' is a group"),
    ],
)
def test_unusable_files(source, tmp_path, what, message):
    damage(tmp_path / "0.h5", what)
    with pytest.raises(CaffeError, match=message):
        hdf5_data(source)


def test_later_files_of_another_shape(source, tmp_path):
    write(tmp_path / "1.h5", data=np.zeros((1, 2, 4)), label=np.zeros(1))
    with pytest.raises(CaffeError, match=r"1.h5: rows have shapes \[\(2, 4\), \(\)\]"):
        run(hdf5_data(source), 2)


def test_refusals(source, tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(CaffeError, match="the list is empty"):
        hdf5_data(tmp_path / "empty")
    with pytest.raises(CaffeError, match="batch_size"):
        hdf5_data(source, 0)
    with pytest.raises(CaffeError, match="does not transform"):
        hdf5_data(source, more="transform_param { scale: 2 }")


OUTPUT = """
layer {{ name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{ source: "{source}" batch_size: 3 }} }}
layer {{ name: "o" type: "HDF5Output" bottom: "data" bottom: "label" hdf5_output_param {{ file_name: "{file}" }} }}
"""


@pytest.mark.parametrize("face", [caffe_bridge.Net, lambda text: pycaffe.Net(text, pycaffe.TEST)])
def test_output(source, tmp_path, face):
    net = face(OUTPUT.format(source=source, file=tmp_path / "out.h5"))
    assert not (tmp_path / "out.h5").exists()
    net.forward()
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file) == ["data", "label"]
        assert file["data"].shape == (3, 2, 3, 1) and file["label"].shape == (3, 1, 1, 1)
        assert file["label"][...].reshape(-1).tolist() == [0, 1, 2] and file["data"].dtype == np.float32
    with pytest.raises(CaffeError, match="holds the first pass already"):
        net.forward()
    del net
    gc.collect()
    assert h5py.is_hdf5(tmp_path / "out.h5")


def test_output_of_double_precision(tmp_path):
    layer = make_layer(f'type: "HDF5Output" hdf5_output_param {{ file_name: "{tmp_path}/o" }}', (2, 3), (2,))
    layer(torch.full((2, 3), 1 / 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float16))
    with h5py.File(tmp_path / "o") as file:
        assert file["data"].dtype == np.float64 and file["data"][0, 0, 0, 0] == 1 / 3
        assert file["label"].dtype == np.float32


def test_output_refusals(tmp_path):
    text = 'type: "HDF5Output" hdf5_output_param {{ file_name: "{}" }}'
    with pytest.raises(CaffeError, match="file_name is not given"):
        make_layer('type: "HDF5Output"', (2,), (2,))
    layer = make_layer(text.format(tmp_path / "none" / "o.h5"), (2, 3), (2,))
    with pytest.raises(CaffeError, match="o.h5: cannot be written"):
        layer(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(CaffeError, match="2 rows of data, 3 of labels"):
        layer.top_shapes([(2, 3), (3,)])
    with pytest.raises(CaffeError, match="four axes"):
        layer.top_shapes([(2, 1, 1, 1, 1), (2,)])
