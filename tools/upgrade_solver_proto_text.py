"""Rewrite a solver prototxt with solver_type as one with type."""

from __future__ import annotations

import sys

from caffe_bridge.cli import run
from caffe_bridge.tools import _upgrade


def upgraded(data: bytes, name: str) -> tuple[bool, bytes]:
    """Whether a solver prototxt was of an older format, and today's."""
    from caffe_bridge import schema, text_format
    from caffe_bridge.upgrade import upgrade_solver

    solver = schema.SolverParameter()
    text_format.parse(data, solver, name)
    older = upgrade_solver(solver, name)
    return bool(older), text_format.format(solver).encode()


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return _upgrade.main(argv, __doc__, "prototxt", "SolverParameter text proto", upgraded)


if __name__ == "__main__":
    sys.exit(run(main))
