import cv2
import numpy as np
import pytest
import torch
from data_layers import check_resuming, run, write_images
from layer_cases import make_layer

from caffe_bridge import CaffeError
from caffe_bridge.listing import read_image_list


def image_data(source, batch_size=2, more="", transform="", phase="TEST"):
    return make_layer(
        f'type: "ImageData" image_data_param {{ source: "{source}" batch_size: {batch_size} {more} }} '
        f"transform_param {{ {transform} }}",
        phase=phase,
    )


@pytest.fixture
def folder(tmp_path):
    """Five images 8x9 and the list of them, labels 10 to 14."""
    write_images(tmp_path, *[(8, 9)] * 5)
    (tmp_path / "list").write_text("".join(f"{tmp_path}/{i}.png {10 + i}\n" for i in range(5)))
    return tmp_path


def test_images_round_and_round(folder):
    layer = image_data(folder / "list")
    assert layer.top_shapes([]) == [(2, 3, 8, 9), (2,)]
    made = run(layer, 5)
    assert torch.cat([labels for _, labels in made]).tolist() == [10, 11, 12, 13, 14] * 2
    for i, values in enumerate(torch.cat([batch for batch, _ in made])):
        np.testing.assert_array_equal(values, cv2.imread(f"{folder}/{i % 5}.png").transpose(2, 0, 1))


def test_root_folder_resizing_and_grey(folder):
    (folder / "short").write_text("0.png 1\n")
    layer = image_data(folder / "short", more=f'root_folder: "{folder}/" new_height: 5 new_width: 12 is_color: false')
    wanted = cv2.resize(cv2.imread(f"{folder}/0.png", cv2.IMREAD_GRAYSCALE), (12, 5))
    np.testing.assert_array_equal(layer()[0], np.broadcast_to(wanted, (2, 1, 5, 12)))


def test_native_sizes(tmp_path):
    write_images(tmp_path, (5, 6), (9, 4))
    (tmp_path / "list").write_text(f"{tmp_path}/0.png 0\n{tmp_path}/1.png 1")
    layer = image_data(tmp_path / "list", batch_size=1)
    assert [tuple(batch.shape) for batch, _ in run(layer, 3)] == [(1, 3, 5, 6), (1, 3, 9, 4), (1, 3, 5, 6)]
    with pytest.raises(CaffeError, match=r"1.png: gives values of shape \(3, 9, 4\)"):
        image_data(tmp_path / "list")()


def test_shuffling_takes_every_image_once_an_epoch(folder):
    made = torch.cat([labels for _, labels in run(image_data(folder / "list", 5, "shuffle: true"), 6)]).reshape(6, 5)
    assert all(sorted(epoch.tolist()) == [10, 11, 12, 13, 14] for epoch in made)
    assert len({tuple(epoch.tolist()) for epoch in made}) > 1


def test_rand_skip(folder):
    first = [int(image_data(folder / "list", 1, "rand_skip: 4")()[1]) for _ in range(60)]
    assert set(first) == {10, 11, 12, 13}
    with pytest.raises(CaffeError, match="rand_skip would skip"):
        for _ in range(60):
            image_data(folder / "list", 1, "rand_skip: 50")


@pytest.mark.parametrize("done", [0, 1, 2, 5])
@pytest.mark.parametrize("more", ["", "shuffle: true", "rand_skip: 3"])
def test_resuming(folder, more, done):
    layers = [image_data(folder / "list", 3, more, "crop_size: 4 mirror: true", "TRAIN") for _ in range(2)]
    run(layers[0], done)
    check_resuming(*layers)


def test_resuming_with_another_list(folder):
    layer = image_data(folder / "list")
    (folder / "short").write_text(f"{folder}/0.png 0")
    with pytest.raises(CaffeError, match="there are 1 items now"):
        image_data(folder / "short").set_stream_state(layer.stream_state())


def test_lists_are_read_as_caffe_reads_them(tmp_path):
    (tmp_path / "list").write_bytes(b"a b.png 3\r\n\nplain.png\n\xe9.png  -7x\nlast 0012 \n12\n")
    assert read_image_list(str(tmp_path / "list")) == [
        ("a b.png", 3),
        ("plain.png", 0),
        ("\udce9.png ", -7),
        ("last 0012", 0),
        ("12", 12),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list: the list is empty"),
        ("\n\n", "list: the list is empty"),
        ("{}/0.png 99999999999", "line 1: label 99999999999 does not fit"),
        ("{}/0.png 2147483648", "does not fit"),
        ("{}/absent.png 1", "absent.png: No such file"),
        ("{} 1", "is not a regular file"),
        ("{}/list 1", "list: cannot be decoded"),
        ("\0 1", "null"),
    ],
)
def test_unusable_lists(folder, text, message):
    (folder / "list").write_text(text.format(folder))
    with pytest.raises(CaffeError, match=message):
        image_data(folder / "list")


def test_refusals(folder):
    with pytest.raises(CaffeError, match="nowhere: No such file"):
        image_data("nowhere")
    with pytest.raises(CaffeError, match="source is not given"):
        image_data("")
    with pytest.raises(CaffeError, match="is not a regular file"):
        image_data(folder)
    with pytest.raises(CaffeError, match="given together"):
        image_data(folder / "list", more="new_height: 3")
    with pytest.raises(CaffeError, match="batch_size"):
        image_data(folder / "list", 0)
    with pytest.raises(CaffeError, match="cannot be resized|elements"):
        image_data(folder / "list", more="new_height: 2000000000 new_width: 2000000000")
