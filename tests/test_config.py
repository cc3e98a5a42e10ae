"""Settings: defaults, merging, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_bridge import config
from caffe_bridge.config import cfg, cfg_from_file, cfg_from_list, safe_yaml_load
from caffe_bridge.errors import CaffeError


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yml"
    path.write_text(text)
    return path


def test_mnc_defaults() -> None:
    assert cfg.MNC_MODE and cfg.USE_GPU_NMS and cfg.TRAIN.MIX_INDEX
    assert (cfg.MASK_SIZE, cfg.BINARIZE_THRESH, cfg.EPS) == (21, 0.4, 1e-14)
    assert (cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.FG_FRACTION, cfg.TRAIN.BG_THRESH_HI) == (64, [0.3], [0.5, 0.1])
    assert (cfg.TEST.RPN_PRE_NMS_TOP_N, cfg.TEST.RPN_POST_NMS_TOP_N) == (6000, 300)
    assert not cfg.TRAIN.EXACT_GRADIENTS and not cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED


def test_py_faster_rcnn_and_back() -> None:
    train = cfg.TRAIN
    config.use("py_faster_rcnn")
    assert (train.FG_FRACTION, train.FG_THRESH, train.BATCH_SIZE, train.IMS_PER_BATCH) == (0.25, 0.5, 128, 2)
    assert (cfg.DEDUP_BOXES, cfg.TEST.SVM, cfg.TEST.HAS_RPN) == (1 / 16, False, False)
    assert train.RPN_BATCHSIZE == 256
    train.FG_FRACTION = 0.5
    config.use("mnc")
    assert train is cfg.TRAIN and train.FG_FRACTION == [0.3]
    assert "FG_THRESH" not in train and not hasattr(train, "FG_THRESH") and not hasattr(cfg, "DEDUP_BOXES")
    config.use("py_faster_rcnn")
    assert train.FG_FRACTION == 0.25
    with pytest.raises(CaffeError, match="no defaults for 'yolo'"):
        config.use("yolo")


def test_a_file_is_merged(tmp_path: Path) -> None:
    text = "EXP_DIR: mnc_5stage\nTRAIN:\n  RPN_POST_NMS_TOP_N: 300\n  SCALES: !!python/tuple [480, 576]\n"
    cfg_from_file(write(tmp_path, text + "  FG_FRACTION: [0.25]\nPIXEL_MEANS: [1, 2, 3]\n"))
    assert (cfg.EXP_DIR, cfg.TRAIN.RPN_POST_NMS_TOP_N, cfg.TRAIN.SCALES) == ("mnc_5stage", 300, (480, 576))
    assert cfg.TRAIN.FG_FRACTION == [0.25] and cfg.TRAIN.MAX_SIZE == 1000
    assert cfg.PIXEL_MEANS.dtype == np.float64 and cfg.PIXEL_MEANS.tolist() == [1, 2, 3]


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    cfg_from_file(write(tmp_path, "# nothing\n"))
    assert cfg.TRAIN.BATCH_SIZE == 64


@pytest.mark.parametrize(
    "text, message",
    [
        ("TRAIN:\n  BATCHSIZE: 3\n", "no setting TRAIN.BATCHSIZE; did you mean TRAIN.BATCH_SIZE"),
        ("TRAIN:\n  FG_THRESH: 0.5\n", "py-faster-rcnn has it"),
        ("NEW: 1\n", "no setting NEW"),
        ("TEST:\n  NMS: 1\n", r"TEST.NMS is of type float, such as 0.3, not 1; write 1.0"),
        ("RNG_SEED: 3.0\n", "RNG_SEED is of type int"),
        ("RNG_SEED: true\n", "RNG_SEED is of type int"),
        ("TRAIN:\n  FG_FRACTION: 0.3\n", "TRAIN.FG_FRACTION is of type list"),
        ("TRAIN: 1\n", "TRAIN is a section"),
        ("PIXEL_MEANS: [a]\n", "PIXEL_MEANS is an array of numbers"),
        ("- 1\n", "maps keys to values"),
        ("a: [1\n", "not readable as YAML"),
        ("1: 2\n", "no setting 1"),
    ],
)
def test_a_file_is_refused_as_a_whole(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "EXP_DIR: changed\n" + text if not text.startswith("-") else text)
    with pytest.raises(CaffeError, match=message) as error:
        cfg_from_file(path)
    assert str(path) in str(error.value)
    assert cfg.EXP_DIR == "default"


def test_a_missing_file() -> None:
    with pytest.raises(CaffeError, match="cannot read the configuration nowhere.yml"):
        cfg_from_file("nowhere.yml")


def test_pairs_are_merged() -> None:
    cfg_from_list(["TRAIN.SCALES", "(400, 600)", "TEST.SCALES", "[300]", "EXP_DIR", "foo bar", "TEST.NMS", "0.4"])
    assert (cfg.TRAIN.SCALES, cfg.TEST.SCALES, cfg.EXP_DIR, cfg.TEST.NMS) == ((400, 600), (300,), "foo bar", 0.4)


@pytest.mark.parametrize(
    "pairs, message",
    [
        (["TEST.HAS_RPN", "yes"], "TEST.HAS_RPN is of type bool"),
        (["TRAIN.XYZ", "1"], "no setting TRAIN.XYZ"),
        (["TRAIN.SCALES.x", "1"], "TRAIN.SCALES is of type tuple"),
        (["SCALES", "(600,)"], r"did you mean (TRAIN|TEST).SCALES"),
        (["EXP_DIR"], "'EXP_DIR' has no value"),
    ],
)
def test_pairs_are_refused_as_a_whole(pairs: list[str], message: str) -> None:
    with pytest.raises(CaffeError, match=message):
        cfg_from_list(["RNG_SEED", "7", *pairs])
    assert cfg.RNG_SEED == 3


def test_param_str() -> None:
    assert safe_yaml_load("{'feat_stride': 16, 'scales': !!python/tuple [4, 8]}") == {
        "feat_stride": 16,
        "scales": [4, 8],
    }
    assert safe_yaml_load("'feat_stride': 16") == {"feat_stride": 16}
    assert safe_yaml_load("") is None


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "[" * 5000])
def test_yaml_names_no_objects(text: str) -> None:
    with pytest.raises(CaffeError, match="not readable as YAML"):
        safe_yaml_load(text)


def test_importing_the_package_loads_no_settings() -> None:
    code = "import sys, caffe_bridge; sys.exit('caffe_bridge.config' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
