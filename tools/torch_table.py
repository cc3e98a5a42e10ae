"""Write the table of docs/conversion.md: the layer types that can be written as PyTorch source."""

from __future__ import annotations

import inspect
import sys

from caffe_bridge.cli import run
from caffe_bridge.convert.torch_export import written_types
from caffe_bridge.tools import _marked_table

VERB = "torch-table"


def table() -> str:
    """A row for each type, with its function's summary and file; Python layers under their MODULE.LAYER."""
    rows = ["| Type | As PyTorch source | Module |", "|---|---|---|"]
    for name, function in written_types().items():
        summary = (inspect.getdoc(function) or "").partition("\n")[0].removesuffix(".")
        module = function.__module__.rpartition(".")[2]
        rows.append(f"| `{name}` | {summary} | [{module}.py](../convert/torch_export/families/{module}.py) |")
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Returns 1 when `--check` finds the file out of step, else 0."""
    return _marked_table.main(argv, VERB, __doc__, table)


if __name__ == "__main__":
    sys.exit(run(main))
