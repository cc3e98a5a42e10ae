"""Write the model definitions in prototxt/ from their Python description."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools.models.catalogue import DEFINITIONS, Definition
from caffe_bridge.tools.models.detectors import DETECTORS, Alternating
from caffe_bridge.tools.models.render import files
from caffe_bridge.tools.models.zoo import ZOO, Published

MODELS: dict[str, Definition | Alternating | Published] = {**DEFINITIONS, **DETECTORS, **ZOO}
DIRECTORY = Path(__file__).resolve().parent.parent / "prototxt"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"which ones (default: all of {', '.join(MODELS)})")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of step")
    parser.add_argument("--classes", type=int, help="number of classes, background included (default: the model's own)")
    parser.add_argument("--out", type=Path, help="write MODEL/*.prototxt here (default: prototxt/)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns 1 when `--check` finds a file that differs, else 0."""
    args = parse_args(argv)
    unknown = [name for name in args.models if name not in MODELS]
    if unknown:
        raise CaffeError(f"no definition is called '{unknown[0]}'; there are {', '.join(MODELS)}")
    if args.classes is not None and args.classes < 2:
        raise CaffeError(f"--classes {args.classes}: a model needs at least 2, the background and one more")
    if args.classes is not None and args.out is None:
        raise CaffeError("--classes makes a variant: say where to write it with --out")
    directory: Path = args.out or DIRECTORY
    stale = 0
    for name in args.models or MODELS:
        definition = MODELS[name]
        if args.classes is not None:
            if isinstance(definition, Published):
                raise CaffeError(f"'{name}' has the classes it was published with; --classes is for the detectors")
            model: Any = dataclasses.replace(definition.model, classes=args.classes)
            definition = dataclasses.replace(definition, model=model)
        for file_name, text in files(definition).items():
            path = directory / name / file_name
            if not args.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"{path} is out of step; run `caffe-bridge make-prototxt`", file=sys.stderr)
                stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(run(main))
