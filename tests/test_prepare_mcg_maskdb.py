"""MCG's proposals as CFM's files, held to a loop over single proposals, and what is done about bad input."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from caffe_bridge import array_pickle, cli, mask_proposals, mcg, mcg_proposals, proposal_targets
from caffe_bridge.datasets import Dataset, get_imdb, shapes
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools import make_proposals, prepare_mcg_maskdb

HEIGHT, WIDTH = 64, 72


def random_proposals(rng: np.random.Generator, count: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[Any, Any]:
    """Superpixels on a jittered grid, numbered with gaps, and labels of one to twelve of them."""
    points = rng.random((40, 2)) * size
    grid = np.stack(np.mgrid[: size[0], : size[1]], -1)
    superpixels = ((grid[:, :, None] - points) ** 2).sum(-1).argmin(-1) * 3 + 5
    present = np.unique(superpixels)
    labels = [rng.choice(present, rng.integers(1, 13)) for _ in range(count)]
    return superpixels, labels


def one_by_one(superpixels: np.ndarray, labels: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and masks of proposals, each drawn in full before it is cut out and shrunk."""
    boxes, masks = [], []
    for label in labels:
        drawn = np.isin(superpixels, label)
        if not drawn.any():
            continue
        y, x = np.nonzero(drawn)
        box = [x.min(), y.min(), x.max(), y.max()]
        cut = drawn[box[1] : box[3] + 1, box[0] : box[2] + 1].astype(float)
        boxes.append(box)
        masks.append(cv2.resize(cut, (size, size), interpolation=cv2.INTER_NEAREST) > 0.5)
    return np.array(boxes).reshape(-1, 4), np.array(masks).reshape(-1, size, size)


def compared_one_by_one(boxes: np.ndarray, masks: np.ndarray, truth: Any) -> dict[str, np.ndarray]:
    """The training arrays, each row worked out on full images."""
    size = masks.shape[1]
    gt = [np.zeros((HEIGHT, WIDTH), bool) for _ in truth.boxes]
    for full, box, mask in zip(gt, truth.boxes, truth.masks):
        full[box[1] : box[3] + 1, box[0] : box[2] + 1] = mask
    rows: dict[str, list[Any]] = {name: [] for name in ("det_overlap", "seg_overlap", "gt_assignment", "output_label")}
    targets, all_masks = [], []
    for number, box in enumerate([*truth.boxes, *boxes]):
        x1, y1, x2, y2 = (int(side) for side in box)
        inside = np.zeros((HEIGHT, WIDTH), bool)
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
        det, seg = [], []
        if number < len(gt):
            all_masks.append(cv2.resize(np.asarray(truth.masks[number], float), (size, size)) >= 0.4)
        else:
            all_masks.append(masks[number - len(gt)])
        shape = (x2 - x1 + 1, y2 - y1 + 1)
        drawn = np.zeros((HEIGHT, WIDTH), bool)
        drawn[y1 : y2 + 1, x1 : x2 + 1] = cv2.resize(all_masks[-1].astype(float), shape) >= 0.4
        for full, other in zip(gt, truth.boxes):
            outside = np.zeros((HEIGHT, WIDTH), bool)
            outside[other[1] : other[3] + 1, other[0] : other[2] + 1] = True
            det.append((inside & outside).sum() / (inside | outside).sum())
            seg.append((drawn & full).sum() / (drawn | full).sum())
        best = int(np.argmax(det))
        met = det[best] > 0
        rows["det_overlap"].append(det[best])
        rows["seg_overlap"].append(1.0 if number < len(gt) else max(seg))
        rows["gt_assignment"].append(best if met else -1)
        rows["output_label"].append(truth.classes[best] if met else 0)
        seen = gt[best][y1 : y2 + 1, x1 : x2 + 1] & outside_of(truth.boxes[best])[y1 : y2 + 1, x1 : x2 + 1]
        shrunk = cv2.resize(seen.astype(np.float32), (size, size)) >= 0.4
        targets.append(shrunk if met else np.zeros_like(shrunk))
    found = {name: np.array(values)[:, None] for name, values in rows.items()}
    return {**found, "mask_targets": np.array(targets), "masks": np.array(all_masks)}


def outside_of(box: np.ndarray) -> np.ndarray:
    """The pixels of a box in an image."""
    full = np.zeros((HEIGHT, WIDTH), bool)
    full[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return full


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    shapes.make(str(folder), 4, 2, (HEIGHT, WIDTH), objects=(1, 3))
    return folder


@pytest.fixture
def dataset(root: Path) -> Dataset:
    return get_imdb("shapes_train", root)


@pytest.fixture
def raw(tmp_path: Path, dataset: Dataset) -> Path:
    """A folder with proposals of each image."""
    for number, name in enumerate(dataset.image_names):
        mcg.write(str(tmp_path / "raw" / f"{name}.mat"), *random_proposals(np.random.default_rng(number), 30))
    return tmp_path / "raw"


def prepare(root: Path, raw: Path, *more: str, db: str = "shapes_train") -> tuple[int, Path]:
    out = raw.parent / "out"
    arguments = ["--input", str(raw), "--output", str(out), "--db", db, "--root", str(root), *more]
    return prepare_mcg_maskdb.main(arguments), out


@pytest.mark.parametrize("size", [1, 7, 21, 28])
@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (9, 130), (1, 1)])
def test_decoding_all_at_once_is_decoding_one_by_one(size, shape):
    superpixels, labels = random_proposals(np.random.default_rng(size), 60, shape)
    boxes, masks = mcg.decode(mcg.group(superpixels, labels), size)
    expected_boxes, expected_masks = one_by_one(superpixels, labels, size)
    np.testing.assert_array_equal(boxes, expected_boxes)
    np.testing.assert_array_equal(masks, expected_masks)


def test_decoding_in_parts(monkeypatch):
    superpixels, labels = random_proposals(np.random.default_rng(3), 50)
    whole = mcg.decode(mcg.group(superpixels, labels), 21)
    monkeypatch.setattr(mcg, "_TABLE", 441 * 7)
    for got, want in zip(mcg.decode(mcg.group(superpixels, labels), 21), whole, strict=True):
        np.testing.assert_array_equal(got, want)


def test_proposals_without_a_pixel_are_left_out():
    superpixels, labels = random_proposals(np.random.default_rng(4), 6)
    labels[0], labels[3], labels[5] = np.array([1000.0]), np.array([]), np.append(labels[5], [-7, 4])
    grouping = mcg.group(superpixels, labels)
    assert len(grouping) == 4 and grouping.empty == 2
    np.testing.assert_array_equal(mcg.decode(grouping, 21)[0], one_by_one(superpixels, labels, 21)[0])
    nothing = mcg.group(superpixels, [])
    assert [array.shape for array in mcg.decode(nothing, 21)] == [(0, 4), (0, 21, 21)]


@pytest.mark.parametrize("size", [14, 21])
def test_training_arrays_are_those_worked_out_row_by_row(dataset, size):
    for i in range(dataset.num_images):
        truth = dataset.annotation(i)
        boxes, masks = one_by_one(*random_proposals(np.random.default_rng(i), 40), size)
        arrays = proposal_targets.for_training(boxes, masks, truth.boxes, truth.masks, truth.classes)
        for name, want in compared_one_by_one(boxes, masks, truth).items():
            np.testing.assert_allclose(arrays[name], want, rtol=0, atol=1e-12, err_msg=name)
        assert arrays["gt_classes"].shape == (len(truth), 1) and arrays["Flip"] is False


def test_written_files_are_what_cfm_reads(root, raw, dataset):
    status, out = prepare(root, raw)
    assert status == 0
    files = mask_proposals.MaskProposals(dataset, str(out))
    for i, name in enumerate(dataset.image_names):
        found, flipped = (mask_proposals.read_training(files.roidb_path_at(n), 5) for n in (i, i + dataset.num_images))
        truth = dataset.annotation(i)
        loaded = scipy.io.loadmat(raw / f"{name}.mat")
        boxes, masks = one_by_one(loaded["superpixels"], [cell[0][0] for cell in loaded["labels"]], 21)
        np.testing.assert_array_equal(found.boxes, [*truth.boxes, *boxes])
        np.testing.assert_array_equal(found.masks[len(truth) :], masks)
        assert (found.flipped, flipped.flipped) == (False, True)
        assert (found.seg_overlap[: len(truth)] == 1).all() and (found.det_overlap[: len(truth)] == 1).all()
        np.testing.assert_array_equal(found.gt_classes, truth.classes)
        np.testing.assert_array_equal(flipped.boxes[:, 0], WIDTH - 1 - found.boxes[:, 2])
        np.testing.assert_array_equal(flipped.boxes[:, 2], WIDTH - 1 - found.boxes[:, 0])
        np.testing.assert_array_equal(flipped.masks, found.masks[:, :, ::-1])
        np.testing.assert_array_equal(flipped.mask_targets, found.mask_targets[:, :, ::-1])
        stored = {name: (kind, shape) for name, shape, kind in scipy.io.whosmat(out / f"{name}.mat")}
        count = len(found.boxes)
        assert stored == {  # as the original's files have them
            "masks": ("logical", (count, 21, 21)),
            "mask_targets": ("logical", (count, 21, 21)),
            "boxes": ("int64", (count, 4)),
            "gt_assignment": ("int64", (count, 1)),
            "gt_classes": (stored["gt_classes"][0], (len(truth), 1)),
            **dict.fromkeys(("det_overlap", "seg_overlap", "output_label"), ("double", (count, 1))),
            "Flip": ("logical", (1, 1)),
        }


def test_test_files_have_boxes_and_masks_alone(root, tmp_path):
    dataset = get_imdb("shapes_val", root)
    for name in dataset.image_names:
        mcg.write(str(tmp_path / "raw" / f"{name}.mat"), *random_proposals(np.random.default_rng(0), 9))
    status, out = prepare(root, tmp_path / "raw", "--test", "--top_k", "5", "-mask_sz", "14", db="shapes_val")
    assert status == 0
    assert sorted(os.listdir(out)) == ["settings.json", *sorted(f"{name}.mat" for name in dataset.image_names)]
    found = mask_proposals.read(str(out / f"{dataset.image_names[0]}.mat"))
    assert found.boxes.shape == (5, 4) and found.masks.shape == (5, 14, 14)


def test_several_processes_write_the_same_files(root, raw):
    _, out = prepare(root, raw)
    alone = {path.name: path.read_bytes() for path in out.glob("*.mat")}
    assert prepare(root, raw, "--para_job", "2", "--overwrite")[0] == 0
    assert len(alone) == 8 and alone == {path.name: path.read_bytes() for path in out.glob("*.mat")}


def test_goes_on_where_it_was_stopped(root, raw, dataset, capsys):
    _, out = prepare(root, raw)
    lost, kept = (out / f"{name}.mat" for name in dataset.image_names[:2])
    (out / f"{lost.stem}_flip.mat").unlink()
    before = kept.stat().st_mtime_ns
    capsys.readouterr()
    assert prepare(root, raw)[0] == 0
    assert capsys.readouterr().out == f"{out}: 1 images written, 3 were there, 0 failed\n"
    assert kept.stat().st_mtime_ns == before and (out / f"{lost.stem}_flip.mat").exists()
    with pytest.raises(CaffeError, match="made with other settings"):
        prepare(root, raw, "--top_k", "3")
    assert prepare(root, raw, "--top_k", "3", "--overwrite")[0] == 0


def test_bad_files_are_named_and_the_rest_goes_on(root, raw, dataset, capsys):
    damaged, absent, other, empty = (raw / f"{name}.mat" for name in dataset.image_names)
    damaged.write_bytes(damaged.read_bytes()[:300])
    absent.unlink()
    mcg.write(str(other), *random_proposals(np.random.default_rng(0), 3, (10, 12)))
    mcg.write(str(empty), np.ones((HEIGHT, WIDTH), int), [])
    status, out = prepare(root, raw)
    shown = capsys.readouterr()
    assert status == 1 and shown.out == f"{out}: 1 images written, 0 were there, 3 failed\n"
    assert f"failed: {damaged}: is no readable MATLAB file" in shown.err
    assert f"failed: {absent}: No such file or directory" in shown.err
    assert f"failed: {other}: its superpixels are those of an image of 10x12, this one is 64x72" in shown.err
    assert f"{empty}: has no proposal with a pixel in the image" in shown.err
    found = mask_proposals.read_training(str(out / empty.name), 5)
    assert len(found.boxes) == len(dataset.annotation(3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"superpixels": np.ones((4, 5))}, "lacks labels"),
        ({"superpixels": np.ones((2, 4, 5)), "labels": np.empty((0, 1), object)}, r"superpixels are numbers \(H, W\)"),
        ({"superpixels": np.ones((4, 5)), "labels": np.ones((3, 1))}, "labels are a cell array"),
        (
            {"superpixels": np.ones((4, 5)), "labels": np.array([["text"]], object)},
            "proposal 1 are no numbers",
        ),
    ],
)
def test_files_of_something_else(tmp_path, arrays, message):
    path = str(tmp_path / "x.mat")
    scipy.io.savemat(path, arrays)
    with pytest.raises(CaffeError, match=message):
        mcg.read(path)


def test_ground_truth_from_the_original_s_pickles(root, raw, dataset, tmp_path):
    roidb = [
        {
            "boxes": entry["boxes"].astype(np.uint16),
            "gt_classes": entry["gt_classes"],
            "gt_overlaps": scipy.sparse.csr_matrix(np.eye(3, dtype=np.float32)),
            "flipped": False,
        }
        for entry in dataset.roidb()
    ]
    maskdb = [{**entry, "gt_masks": list(entry["gt_masks"])} for entry in dataset.maskdb()]
    paths = [str(tmp_path / name) for name in ("roidb.pkl", "maskdb.pkl")]
    for path, entries in zip(paths, (roidb, maskdb)):
        Path(path).write_bytes(pickle.dumps(entries, protocol=2))
    _, out = prepare(root, raw)
    without = {path.name: path.read_bytes() for path in out.glob("*.mat")}
    assert prepare(root, raw, "--gt_roi", paths[0], "--gt_mask", paths[1], "--overwrite")[0] == 0
    assert without == {path.name: path.read_bytes() for path in out.glob("*.mat")}

    Path(paths[1]).write_bytes(pickle.dumps(maskdb[:-1], protocol=2))
    with pytest.raises(CaffeError, match="has 3 images with masks, shapes_train has 4"):
        prepare(root, raw, "--gt_roi", paths[0], "--gt_mask", paths[1], "--overwrite")
    Path(paths[1]).write_bytes(pickle.dumps([*maskdb[1:], maskdb[0]], protocol=2))
    with pytest.raises(CaffeError, match="masks are not as large as the boxes"):
        prepare(root, raw, "--gt_roi", paths[0], "--gt_mask", paths[1], "--overwrite")
    Path(paths[0]).write_bytes(pickle.dumps([{"boxes": os.getcwd}], protocol=2))
    with pytest.raises(CaffeError, match="it asks for"):
        array_pickle.load_entries(paths[0])


def test_generated_proposals_lead_to_training_files(root, dataset, tmp_path, capsys):
    pytest.importorskip("skimage")
    raw = tmp_path / "raw"
    arguments = ["--db", "shapes_train", "--root", str(root), "--out", str(raw), "--count", "300"]
    assert make_proposals.main(arguments) == 0
    assert make_proposals.main(arguments) == 0
    assert capsys.readouterr().out.endswith("0 images written, 4 were there, 0 failed\n")
    status, out = prepare(root, raw)
    assert status == 0
    best = []
    for i, name in enumerate(dataset.image_names):
        truths = len(dataset.annotation(i))
        found = mask_proposals.read_training(str(out / f"{name}.mat"), 5)
        assert truths < len(found.boxes) <= truths + 300
        of_truth = found.gt_assignment[truths:, None] == np.arange(truths)
        best += np.where(of_truth, found.det_overlap[truths:, None], 0).max(0).tolist()
    assert np.median(best) > 0.5


def test_generator_merges_what_belongs_together(root, dataset):
    """Most instances are among the first proposals; each comes once and is neither tiny nor the whole image."""
    pytest.importorskip("skimage")
    best = []
    for i, path in enumerate(dataset.image_paths):
        superpixels, labels = mcg_proposals.propose(cv2.imread(path), 200, 60)
        assert len(labels) <= 200 and len({label.tobytes() for label in labels}) == len(labels)
        assert 1 <= superpixels.max() <= 60 and set(np.concatenate(labels)) <= set(superpixels.ravel())
        covered = np.array([np.isin(superpixels, label) for label in labels])
        assert 1e-3 <= covered.mean((1, 2)).min() and covered.mean((1, 2)).max() <= 0.9
        truth = dataset.annotation(i)
        for (x1, y1, x2, y2), mask in zip(truth.boxes, truth.masks):
            full = np.zeros(superpixels.shape, bool)
            full[y1 : y2 + 1, x1 : x2 + 1] = mask
            best.append(((covered & full).sum((1, 2)) / (covered | full).sum((1, 2))).max())
    assert np.mean(np.array(best) >= 0.5) > 0.7


def test_too_many_superpixels_are_refused(tmp_path):
    pytest.importorskip("skimage")
    arguments = ["--db", "shapes_train", "--out", str(tmp_path / "raw"), "--superpixels", "1001"]
    with pytest.raises(CaffeError, match="at most 1000 can be merged"):
        make_proposals.main(arguments)


def test_generator_on_an_image_without_regions():
    pytest.importorskip("skimage")
    superpixels, labels = mcg_proposals.propose(np.full((20, 30, 3), 128, np.uint8))
    assert superpixels.shape == (20, 30) and labels == []


def test_generator_names_what_is_missing(tmp_path, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.color", None)
    arguments = ["make-proposals", "--images", str(tmp_path / "a.png"), "--out", str(tmp_path / "raw")]
    assert cli.main(arguments) == 2
    assert "pip install caffe-bridge[proposals]" in capsys.readouterr().err


def test_images_that_share_a_name_are_refused(tmp_path):
    pytest.importorskip("skimage")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "x.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(CaffeError, match="several images are called x"):
        make_proposals.main(["--images", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "raw")])
