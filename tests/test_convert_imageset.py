import cv2
import numpy as np
import pytest
from data_layers import write_images

from caffe_bridge import CaffeError, schema
from caffe_bridge.database import Records
from caffe_bridge.datum import datum_pixels
from caffe_bridge.tools import convert_imageset

pytest.importorskip("lmdb")


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, *[(8, 9)] * 3)
    write_images(tmp_path, *[(8, 9)] * 4, name="{}.jpeg")
    (tmp_path / "list").write_text("0.png 5\n1.png -1\n3.jpeg 70000\n")
    return tmp_path


def convert(folder, *flags):
    assert convert_imageset.main([*flags, f"{folder}/", str(folder / "list"), str(folder / "db")]) == 0
    return [(key.decode(), schema.Datum.FromString(value)) for key, value in Records(str(folder / "db"), "LMDB")]


def test_pixels(folder):
    records = convert(folder)
    assert [(key, datum.label) for key, datum in records] == [
        ("00000000_0.png", 5),
        ("00000001_1.png", -1),
        ("00000002_3.jpeg", 70000),
    ]
    for key, datum in records:
        wanted = cv2.imread(str(folder / key[9:])).transpose(2, 0, 1)
        assert (datum.channels, datum.height, datum.width, datum.encoded) == (3, 8, 9, False)
        np.testing.assert_array_equal(datum_pixels(datum, key), wanted)


@pytest.mark.parametrize(
    "flags", [["--resize_height=4", "--resize_width=6"], ["-resize_height", "4", "-resize_width", "6"]]
)
def test_resized_and_grey(folder, flags):
    for key, datum in convert(folder, "--gray", *flags):
        wanted = cv2.resize(cv2.imread(str(folder / key[9:]), cv2.IMREAD_GRAYSCALE), (6, 4))
        np.testing.assert_array_equal(datum_pixels(datum, key), wanted[None])


def test_encoded_files_are_kept_as_they_are(folder):
    for key, datum in convert(folder, "--encoded"):
        assert datum.encoded and datum.data == (folder / key[9:]).read_bytes()


def test_encode_type_encodes_the_others(folder):
    records = convert(folder, "--encode_type", "jpg")
    kept = [datum.data == (folder / key[9:]).read_bytes() for key, datum in records]
    assert kept == [False, False, True]
    assert all(datum.encoded and datum.data[:2] == b"\xff\xd8" for _, datum in records)


def test_resized_files_are_encoded_again(folder):
    for key, datum in convert(folder, "--encoded", "--resize_height=4", "--resize_width=6"):
        assert datum.encoded and datum_pixels(datum, key).shape == (3, 4, 6)


def test_shuffled(folder):
    (folder / "list").write_text("".join(f"0.png {i}\n" for i in range(30)))
    labels = [datum.label for _, datum in convert(folder, "--shuffle")]
    assert labels != sorted(labels) == list(range(30))


def test_unreadable_images_are_left_out(folder, capsys):
    (folder / "list").write_text("0.png 1\nabsent.png 2\nlist 3\n1.png 4\n")
    assert [key for key, _ in convert(folder)] == ["00000000_0.png", "00000003_1.png"]
    captured = capsys.readouterr()
    assert "absent.png" in captured.err and "list: cannot be decoded" in captured.err and "2 of 4" in captured.out


def test_check_size(folder):
    write_images(folder, (5, 5), name="small{}.png")
    (folder / "list").write_text("0.png 1\nsmall0.png 2\n")
    with pytest.raises(CaffeError, match=r"small0.png: has shape \(5, 5, 3\), those before it \(8, 9, 3\)"):
        convert(folder, "--check_size")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encode_type", "nonsense"], "cannot be encoded as 'nonsense'"),
        (["--resize_width=3"], "given together"),
    ],
)
def test_refusals(folder, flags, message):
    with pytest.raises(CaffeError, match=message):
        convert(folder, *flags)


def test_nothing_to_store(folder):
    (folder / "list").write_text("absent.png 2\n")
    with pytest.raises(CaffeError, match="no image could be read"):
        convert(folder)


def test_a_second_run_is_refused(folder):
    convert(folder)
    with pytest.raises(CaffeError, match="File exists"):
        convert(folder)


def test_leveldb(folder):
    pytest.importorskip("plyvel")
    convert_imageset.main(["--backend=leveldb", f"{folder}/", str(folder / "list"), str(folder / "ldb")])
    assert len(list(Records(str(folder / "ldb"), "LEVELDB"))) == 3
