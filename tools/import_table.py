"""Write the tables of docs/conversion.md: what becomes Caffe layers, and which layers each dialect has."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from caffe_bridge.cli import run
from caffe_bridge.convert.caffe_import import DIALECTS
from caffe_bridge.convert.caffe_import.aten import CONVERTERS as ATEN
from caffe_bridge.convert.caffe_import.onnx_operators import CONVERTERS as ONNX
from caffe_bridge.convert.caffe_import.registry import emitters
from caffe_bridge.tools import _marked_table

VERB = "import-table"


def table() -> str:
    """What ONNX and torch operators mean, how that is written, and the layers of the dialects."""
    onnx, aten = _by_meaning(ONNX), _by_meaning(ATEN)
    rows = ["| What | ONNX | torch (aten) |", "|---|---|---|"]
    rows += [f"| {what} | {_names(onnx.get(what))} | {_names(aten.get(what))} |" for what in sorted({*onnx, *aten})]
    rows += ["", "| Operator | Written as | Module |", "|---|---|---|"]
    for name, function in emitters().items():
        module = function.__module__.rpartition(".")[2]
        rows.append(f"| {name} | {_summary(function)} | [{module}.py](../convert/caffe_import/families/{module}.py) |")
    rows += ["", "| Dialect | Layers |", "|---|---|"]
    for dialect in DIALECTS.values():
        layers = "all that caffe-bridge runs" if dialect.layers is None else ", ".join(sorted(dialect.layers))
        rows.append(f"| {dialect.name} | {layers} |")
    return "\n".join(rows) + "\n"


def _by_meaning(converters: Mapping[str, Callable[..., Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, function in sorted(converters.items()):
        found.setdefault(_summary(function), []).append(name)
    return found


def _names(names: list[str] | None) -> str:
    return ", ".join(f"`{name}`" for name in names or ())


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].removesuffix(".").replace("|", "\\|")


def main(argv: list[str] | None = None) -> int:
    """Returns 1 when `--check` finds the file out of step, else 0."""
    return _marked_table.main(argv, VERB, __doc__, table)


if __name__ == "__main__":
    sys.exit(run(main))
