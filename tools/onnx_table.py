"""Write the tables of docs/conversion.md: the layer types that can be exported to ONNX, and where that was checked."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caffe_bridge.cli import run
from caffe_bridge.convert.onnx_export import exported_types
from caffe_bridge.tools import _marked_table

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests" / "peers" / "record.json"
"""What `make peers` found: versions of programs, cases of each type that agree, errors of nets."""

VERB = "onnx-table"
BEGIN, END = _marked_table.begin(VERB), _marked_table.END
PROGRAMS = {"onnxruntime": "onnxruntime {}", "opencv5": "OpenCV {}", "opencv4": "OpenCV {}, as caffemodel"}


def table() -> str:
    """The tables: a row for each exported type with its function's summary and file, and one for each net."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    titles = [title.format(record["versions"].get(program, "")) for program, title in PROGRAMS.items()]
    rows = [f"| Type | Export | {' | '.join(titles)} | Module |", "|---|---|---|---|---|---|"]
    for name, function in exported_types().items():
        summary = (inspect.getdoc(function) or "").partition("\n")[0].removesuffix(".")
        module = function.__module__.rpartition(".")[2]
        link = f"[{module}.py](../convert/onnx_export/families/{module}.py)"
        checked = " | ".join(_agreeing(record["types"].get(name, {}), program) for program in PROGRAMS)
        rows.append(f"| `{name}` | {summary} | {checked} | {link} |")
    rows += ["", f"| Net | {' | '.join(titles)} |", "|---|---|---|---|"]
    for name, errors in record["nets"].items():
        checked = " | ".join(_error(errors.get(program)) for program in PROGRAMS)
        rows.append(f"| `{name}` | {checked} |")
    return "\n".join(rows) + "\n"


def _agreeing(programs: Mapping[str, Any], program: str) -> str:
    """How many recorded cases agree, and of how many where it is not all."""
    agree, count = programs.get(program, (0, 0))
    return "" if not agree else str(agree) if agree == count else f"{agree} of {count}"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.0e}"


def main(argv: list[str] | None = None) -> int:
    """Returns 1 when `--check` finds the file out of step, else 0."""
    return _marked_table.main(argv, VERB, __doc__, table)


if __name__ == "__main__":
    sys.exit(run(main))
