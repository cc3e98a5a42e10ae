"""The settings of MNC and py-faster-rcnn under their own key names, and the YAML they are written in.

    from caffe_bridge.config import cfg, cfg_from_file
    cfg_from_file("experiments/mnc_5stage.yml")
    cfg.TRAIN.RPN_POST_NMS_TOP_N        # 300

Layers read `cfg` when they run, so a change takes effect at the next forward pass.
"""

from __future__ import annotations

import ast
import copy
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from easydict import EasyDict

from caffe_bridge.errors import CaffeError

_ROOT = os.path.abspath(".")

_MNC: dict[str, Any] = {
    "MNC_MODE": True,
    "CFM_MODE": False,
    "EXP_DIR": "default",
    "USE_GPU_NMS": True,  # suppress at IoU > threshold; False suppresses at IoU >= threshold, as the CPU version did
    "GPU_ID": 0,
    "RNG_SEED": 3,
    "EPS": 1e-14,
    "PIXEL_MEANS": np.array([[[102.9801, 115.9465, 122.7717]]]),  # blue, green, red
    "ROOT_DIR": _ROOT,
    "DATA_DIR": os.path.join(_ROOT, "data"),
    "BINARIZE_THRESH": 0.4,
    "MASK_SIZE": 21,
    "TRAIN": {
        "IMS_PER_BATCH": 1,
        "BATCH_SIZE": 64,  # RoIs
        "ASPECT_GROUPING": True,
        "USE_FLIPPED": True,
        "SCALES": (600,),  # pixels of the shorter side
        "MAX_SIZE": 1000,  # pixels of the longer side
        "SNAPSHOT_ITERS": 5000,
        "SNAPSHOT_INFIX": "",
        # RoIs by IoU with the nearest ground truth: closed intervals, and their shares of the batch (foreground)
        # and of what the foreground left (background)
        "FG_FRACTION": [0.3],
        "FG_THRESH_HI": [1.0],
        "FG_THRESH_LO": [0.5],
        "BG_FRACTION": [0.85, 0.15],
        "BG_THRESH_HI": [0.5, 0.1],
        "BG_THRESH_LO": [0.1, 0.0],
        "PROPOSAL_METHOD": "gt",
        "BBOX_REG": True,
        "BBOX_NORMALIZE_TARGETS": True,
        "BBOX_NORMALIZE_TARGETS_PRECOMPUTED": False,
        "BBOX_THRESH": 0.5,
        "BBOX_NORMALIZE_MEANS": (0.0, 0.0, 0.0, 0.0),
        "BBOX_NORMALIZE_STDS": (0.1, 0.1, 0.2, 0.2),
        "BBOX_INSIDE_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "HAS_RPN": True,
        "RPN_POSITIVE_OVERLAP": 0.7,
        "RPN_NEGATIVE_OVERLAP": 0.3,
        "RPN_CLOBBER_POSITIVES": False,
        "RPN_FG_FRACTION": 0.5,
        "RPN_BATCHSIZE": 256,  # anchors
        "RPN_NMS_THRESH": 0.7,
        "RPN_PRE_NMS_TOP_N": 12000,
        "RPN_POST_NMS_TOP_N": 2000,
        "RPN_MIN_SIZE": 16,  # original-image pixels
        "RPN_BBOX_INSIDE_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "RPN_POSITIVE_WEIGHT": -1.0,
        "MIX_INDEX": True,  # the RoIs drawn for the second stage also train the RPN
        "CFM_INPUT_MASK_SIZE": 14,
        "FG_DET_THRESH": 0.5,
        "FG_SEG_THRESH": 0.5,
        "FRACTION_SAMPLE": [0.3, 0.5, 0.2],
        "THRESH_LO_SAMPLE": [0.5, 0.1, 0.0],
        "THRESH_HI_SAMPLE": [1.0, 0.5, 0.1],
        "EXACT_GRADIENTS": False,  # ours: true derivatives instead of the published ones
    },
    "TEST": {
        "SCALES": (600,),
        "MAX_SIZE": 1000,
        "NMS": 0.3,
        "HAS_RPN": True,
        "RPN_NMS_THRESH": 0.7,
        "RPN_PRE_NMS_TOP_N": 6000,
        "RPN_POST_NMS_TOP_N": 300,
        "RPN_MIN_SIZE": 16,
        "BBOX_REG": True,
        "MASK_MERGE_IOU_THRESH": 0.5,
        "MASK_MERGE_NMS_THRESH": 0.3,
        "CFM_INPUT_MASK_SIZE": 14,
        "MAX_ROIS_GPU": [2000],  # per group of GROUP_SCALE image scales
        "GROUP_SCALE": 1,
        "USE_TOP_K_MCG": 0,  # 0: all proposals
        "USE_MASK_MERGE": True,
        "USE_GPU_MASK_MERGE": True,
    },
}

_PY_FASTER_RCNN: dict[str, Any] = {  # what differs from, or comes on top of, MNC's
    "MNC_MODE": False,
    "DEDUP_BOXES": 1 / 16,
    "MODELS_DIR": os.path.join(_ROOT, "models", "pascal_voc"),
    "MATLAB": "matlab",
    "TRAIN": {
        "IMS_PER_BATCH": 2,
        "BATCH_SIZE": 128,
        "FG_FRACTION": 0.25,
        "FG_THRESH": 0.5,
        "BG_THRESH_HI": 0.5,
        "BG_THRESH_LO": 0.1,
        "SNAPSHOT_ITERS": 10000,
        "USE_PREFETCH": False,
        "PROPOSAL_METHOD": "selective_search",
        "HAS_RPN": False,
    },
    "TEST": {"SVM": False, "HAS_RPN": False, "PROPOSAL_METHOD": "selective_search"},
}

_PROJECTS: dict[str, dict[str, Any]] = {"mnc": {}, "py_faster_rcnn": _PY_FASTER_RCNN}

PROJECTS = tuple(_PROJECTS)

cfg = EasyDict()


def use(project: str) -> None:
    """Reset `cfg`, in place, to the defaults of "mnc" or "py_faster_rcnn".

    Keys that only MNC has keep MNC's defaults under py-faster-rcnn, so its layers work there too.
    """
    if project not in _PROJECTS:
        raise CaffeError(f"no defaults for {project!r}; there are {' and '.join(_PROJECTS)}")
    changes = _PROJECTS[project]
    sections = {name: {**_MNC[name], **changes.get(name, {})} for name in ("TRAIN", "TEST")}
    _replace(cfg, copy.deepcopy({**_MNC, **changes, **sections}))


def _replace(target: EasyDict, values: dict[str, Any]) -> None:
    for key in {*target, *vars(target)} - set(values):
        target.pop(key, None)
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), EasyDict):
            _replace(target[key], value)
        else:
            target[key] = value


def cfg_from_file(path: str | Path) -> None:
    """Merge a YAML file into `cfg`; nothing changes when any of it is refused.

    Raises:
        CaffeError: the file cannot be read, a key does not exist, or a value is not of the default's type
            (lists and tuples count as one type; 1 is not a float, as in the original).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CaffeError(f"cannot read the configuration {path}: {error}") from error
    try:
        values = safe_yaml_load(text)
        if values is None:
            return
        if not isinstance(values, dict):
            raise CaffeError(f"a configuration maps keys to values, this is a {type(values).__name__}")
        changes = list(_checked(values, cfg, ""))
    except CaffeError as error:
        raise CaffeError(f"{path}: {error}") from error
    _apply(changes)


def cfg_from_list(pairs: Sequence[str]) -> None:
    """Merge KEY VALUE pairs, such as ["TRAIN.SCALES", "(400, 600)"], into `cfg`; all of them or, on an error, none.

    A value is read as a Python literal, and as a string where it is none.

    Raises:
        CaffeError: a key without a value, an unknown key, or a value of another type than the default's.
    """
    if len(pairs) % 2:
        raise CaffeError(f"settings come as KEY VALUE pairs; '{pairs[-1]}' has no value")
    changes: list[tuple[EasyDict, str, Any]] = []
    for key, text in zip(pairs[::2], pairs[1::2]):
        *sections, last = key.split(".")
        nested: Any = {last: _literal(text)}
        for section in reversed(sections):
            nested = {section: nested}
        changes += _checked(nested, cfg, "")
    _apply(changes)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _checked(values: Mapping[Any, Any], target: EasyDict, prefix: str) -> Iterator[tuple[EasyDict, str, Any]]:
    """(section, key, value) of every setting in `values`, converted to the type of the one it replaces."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in target:
            raise CaffeError(_unknown(name))
        old = target[key]
        if isinstance(old, EasyDict):
            if not isinstance(value, dict):
                raise CaffeError(f"{name} is a section of settings, not {value!r}")
            yield from _checked(value, old, f"{name}.")
        else:
            yield target, key, _converted(name, value, old)


def _converted(name: str, value: Any, old: Any) -> Any:
    if isinstance(old, np.ndarray):
        try:
            return np.array(value, dtype=old.dtype)
        except (TypeError, ValueError) as error:
            raise CaffeError(f"{name} is an array of numbers, not {value!r}") from error
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        return type(old)(value)
    if type(value) is not type(old):
        hint = f"; write {float(value)!r}" if isinstance(old, float) and type(value) is int else ""
        raise CaffeError(f"{name} is of type {type(old).__name__}, such as {old!r}, not {value!r}{hint}")
    return value


def _unknown(name: str) -> str:
    keys = [*_names(cfg)]
    if name in _names(_PY_FASTER_RCNN):
        hint = '; py-faster-rcnn has it: call caffe_bridge.config.use("py_faster_rcnn") first'
    else:
        tails = {key.rpartition(".")[2]: key for key in keys}
        near = difflib.get_close_matches(name, keys, n=1) or [
            tails[tail] for tail in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1)
        ]
        hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no setting {name}{hint}"


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")


def _apply(changes: list[tuple[EasyDict, str, Any]]) -> None:
    for section, key, value in changes:
        section[key] = value


def safe_yaml_load(text: str) -> Any:
    """The value of a YAML text that can name no Python object; `!!python/tuple` gives a list.

    Raises:
        CaffeError: the text is no YAML, or asks for an object.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", Loader.construct_yaml_seq)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CaffeError(f"not readable as YAML: {' '.join(str(error).split())}") from error


use("mnc")
