"""Exported torch programs (.pt2) read without running what a file says.

`torch.export.load` unpickles, and evaluates text from the file as Python. So a file is looked through first: it may
hold nothing but plain records of numbers and a graph whose names, operators and sizes are of the kinds that
`torch.export.save` writes.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from caffe_bridge.convert.torch_export.parts import define_operators
from caffe_bridge.errors import WeightsError, first_line

_RECORDS = re.compile(
    r"models/model\.json|data/(weights|constants)/(model_(weights|constants)_config\.json|weight_\d+|tensor_\d+)|"
    r"data/sample_inputs/model\.pt|(archive_)?(format|version)|byteorder|\.data/\w+|extra/[\w.-]+|\.format_version|"
    r"\.storage_alignment"
)
_NAME = re.compile(r"[\w.\-]*", re.ASCII)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|caffe|caffe_bridge|torchvision)\.(?!from_file)\w+(\.\w+)?|torch\.sym_\w+|"
    r"_operator\.(getitem|add|sub|mul|neg|pow|floordiv|truediv|mod|eq|ne|lt|le|gt|ge|and_|or_|not_)|"
    r"math\.(ceil|floor|trunc)",
    re.ASCII,
)
_SYMBOL = re.compile(r"Symbol\('\w{1,20}'(, \w{1,20}=True){0,8}\)", re.ASCII)
_WORDS = {
    *("Add", "Mul", "Integer", "Rational", "Max", "Min", "FloorDiv", "CleanDiv", "CeilDiv", "Mod", "PythonMod"),
    *("Equality", "Unequality", "Eq", "Ne", "GreaterThan", "Ge", "Gt", "LessThan", "Le", "Lt", "StrictGreaterThan"),
    *("StrictLessThan", "Not", "And", "Or", "true", "false", "True", "False", "oo", "int_oo", "ToFloat", "TruncToInt"),
    *("TruncToFloat", "CeilToInt", "FloorToInt", "RoundToInt", "IntTrueDiv", "FloatTrueDiv", "Float", "precision"),
}
_LONGEST = 1000
_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", "builtins.NoneType", None}


def read_program(path: str) -> torch.export.ExportedProgram:
    """The program of a .pt2 file, as `torch.export.save` writes it.

    torch is given the records that were looked at, in an archive made anew, and not the file, which it might read
    otherwise. Example inputs, which are pickled, are left out.

    Raises WeightsError for a file that is damaged, or holds anything that could run code when it is loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = _checked(path, archive)
        define_operators()
        return _load(records)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises whatever it stumbles over
        raise WeightsError(f"{path}: cannot be read as an exported program: {first_line(error)}") from error


def _load(records: Mapping[str, bytes]) -> torch.export.ExportedProgram:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    buffer.seek(0)
    logger, quiet = logging.getLogger("torch.export"), logging.Filter("nothing is called so")
    logger.addFilter(quiet)  # it logs a traceback besides raising an error
    try:
        return torch.export.load(buffer)
    finally:
        logger.removeFilter(quiet)


def _checked(path: str, archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The records to load, by their names without the archive's own."""
    records: dict[str, bytes] = {}
    for info in archive.infolist():
        _, _, name = info.filename.partition("/")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise WeightsError(f"{path}: record '{info.filename}' is compressed, which torch.export does not do")
        if not _RECORDS.fullmatch(name) or name in records:
            raise WeightsError(f"{path}: record '{info.filename}' is refused: only tensors and the graph are read")
        records[name] = archive.read(info)
    if "models/model.json" not in records:
        raise WeightsError(f"{path}: is no exported program: it has no models/model.json")
    for kind, name in (("weights", "weight"), ("constants", "tensor")):
        config = records.get(f"data/{kind}/model_{kind}_config.json")
        if config is None:
            raise WeightsError(f"{path}: has no table of {kind}")
        _check_payload(path, json.loads(config), records, f"data/{kind}/", name)
    for key, value in _leaves(json.loads(records["models/model.json"])):
        _check_leaf(path, key, value)
    return {**records, "data/sample_inputs/model.pt": b""}


def _check_payload(path: str, table: Any, records: Mapping[str, bytes], folder: str, name: str) -> None:
    for key, entry in table["config"].items():
        file = entry["path_name"]
        if entry["use_pickle"] or not re.fullmatch(rf"{name}_\d+", file) or folder + file not in records:
            raise WeightsError(f"{path}: '{key}' is not stored as plain numbers; pickled tensors are refused")
        sizes = [size.get("as_int") for size in entry["tensor_meta"]["sizes"]]
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise WeightsError(f"{path}: '{key}' has no plain sizes")
        if math.prod(sizes) and not records[folder + file]:
            raise WeightsError(f"{path}: '{key}' has {math.prod(sizes)} values, its record is empty")


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(name of the field, value) of every string of a JSON value; keys of tables count as names."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, list):
        for item in node:
            yield from _leaves(item, key)
    elif isinstance(node, dict):
        for name, item in node.items():
            yield "name", name
            if name != "metadata":
                yield from _leaves(item, name)


def _check_leaf(path: str, key: str, text: str) -> None:
    if key in ("as_string", "as_strings"):
        return
    if key in ("in_spec", "out_spec"):
        good = not text or all(value in _TREES for value in _tree_types(json.loads(text)))
    elif key == "target":
        good = bool(_OPERATOR.fullmatch(text)) or _NAME.fullmatch(text) is not None and "." not in text
    elif key == "expr_str":
        good = _is_size(text)
    elif key == "guards_code":
        good = False
    elif key == "torch_version":
        good = bool(re.fullmatch(r"[\w.+<=\-]*", text, re.ASCII))
    else:
        good = bool(_NAME.fullmatch(text))
    if not good:
        raise WeightsError(f"{path}: {key} '{text[:80]}' is refused: a program's file may name standard operators only")


def _tree_types(spec: Any) -> Iterator[str | None]:
    if isinstance(spec, dict):
        yield spec.get("type")
        for child in spec.get("children_spec", ()):
            yield from _tree_types(child)
    elif isinstance(spec, list):
        for child in spec:
            yield from _tree_types(child)


def _is_size(text: str) -> bool:
    """Whether an expression is arithmetic of symbols and whole numbers, without powers: those could take for ever."""
    if len(text) > _LONGEST or "**" in text:
        return False
    rest = _SYMBOL.sub("0", text)
    words = re.findall(r"[A-Za-z_]\w*", rest, re.ASCII)
    return bool(re.fullmatch(r"[\w\s+\-*/(),<>=&|~]*", rest, re.ASCII)) and all(
        word in _WORDS or re.fullmatch(r"[suz]\w{0,3}\d{1,6}", word) for word in words
    )
