"""The generated data set: reproducible, hidden by one another, and read as any SBD folder."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_bridge import boxes
from caffe_bridge.datasets import get_imdb, shapes
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools import make_shapes


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_makes_the_same_files_and_a_larger_set_begins_with_the_smaller(tmp_path):
    for name, count, seed in (("a", 3, 7), ("b", 5, 7), ("c", 3, 8)):
        shapes.make(str(tmp_path / name), count, 1, (64, 80), seed=seed)
    first, larger, other = (contents(tmp_path / name) for name in "abc")
    same = [path for path in first if path.suffix != ".txt"]
    assert len(same) == 12 and all(larger[path] == first[path] for path in same)
    assert not any(other[path] == first[path] for path in same if path.suffix == ".jpg")


@pytest.mark.parametrize("size", [(160, 208), (32, 300), (333, 97)])
@pytest.mark.parametrize("kind", shapes.KINDS)
def test_a_scene_of_every_kind(kind, size):
    scene = shapes.draw(np.random.RandomState(1), *size, [kind], (2, 3))
    assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
    assert scene.instances.shape == size
    assert set(scene.classes) == {1} and 1 <= len(scene.classes) <= 3
    assert np.unique(scene.instances).tolist()[-len(scene.classes) :] == list(range(1, len(scene.classes) + 1))


def test_scenes_are_as_difficult_as_they_should_be():
    scenes = [shapes.draw(np.random.RandomState(i), 160, 208) for i in range(60)]
    assert {label for scene in scenes for label in scene.classes} == {1, 2, 3, 4}
    assert {len(scene.classes) for scene in scenes} == {1, 2, 3, 4}
    sides, overlapping = [], 0
    for scene in scenes:
        found = []
        for number in range(1, len(scene.classes) + 1):
            y, x = np.nonzero(scene.instances == number)
            found.append([x.min(), y.min(), x.max(), y.max()])
            sides += [np.ptp(x) + 1, np.ptp(y) + 1]
            assert scene.image[y, x].std() > 3  # textured
        overlap = boxes.overlaps(np.array(found), np.array(found)) - np.eye(len(found))
        overlapping += bool((overlap > 0.05).any())
    assert overlapping > 10
    assert 20 < np.median(sides) < 80 and max(sides) <= 1.2 * 110


def test_the_verb_makes_a_set_that_reads_as_any_other(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "set"), "--train", "4", "--val", "2", "--size", "72x96"]
    assert make_shapes.main([*arguments, "--classes", "ring", "cross", "--seed", "3"]) == 0
    assert "4 training and 2 validation" in capsys.readouterr().out
    train, val = (get_imdb(f"shapes_{part}", tmp_path / "set") for part in ("train", "val"))
    assert (train.num_images, val.num_images) == (4, 2)
    assert train.classes == ("__background__", "ring", "cross")
    assert all(len(train.annotation(i)) for i in range(4)) and train.image_size(0) == (72, 96)
    with pytest.raises(CaffeError, match="is not empty"):
        make_shapes.main(arguments)
    assert make_shapes.main([*arguments, "--overwrite"]) == 0
    assert get_imdb("shapes_train", tmp_path / "set").classes[1:] == ("disk", "square", "triangle", "star")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (16, 200)}, "sides of 32 to 4096 pixels, not 16 x 200"),
        ({"size": (200, 10**6)}, "sides of 32 to 4096"),
        ({"kinds": ["disk", "cube"]}, "classes are some of .*cube"),
        ({"kinds": []}, "none"),
        ({"kinds": ["disk", "disk"]}, "each once"),
        ({"objects": (0, 3)}, "1 to 50 objects"),
        ({"objects": (4, 3)}, "4 to 3"),
    ],
)
def test_what_cannot_be_made(tmp_path, changes, message):
    with pytest.raises(CaffeError, match=message):
        shapes.make(str(tmp_path / "set"), 1, 1, **changes)
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaffeError, match="cannot be written"):
        shapes.make(str(tmp_path / "file" / "set"), 1, 0)


@pytest.mark.parametrize("arguments", [["--size", "100"], ["--size", "0x1x2"], ["--train", "-1"], ["--seed", "x"]])
def test_arguments_that_make_no_sense(tmp_path, arguments):
    with pytest.raises(SystemExit) as error:
        make_shapes.main(["--out", str(tmp_path / "set"), *arguments])
    assert error.value.code == 2
