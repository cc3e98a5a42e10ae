"""The console command `caffe-bridge <verb>`: each verb is a module of caffe_bridge.tools with a `main`."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from caffe_bridge import __version__
from caffe_bridge.errors import CaffeError

USAGE = """usage: caffe-bridge VERB [ARGUMENTS]
       caffe-bridge --help | --version

verbs:
{verbs}

`caffe-bridge VERB --help` explains one verb."""


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Call a tool's `main` and return its exit status, the same from the console command and from a script.

    What the user got wrong (a CaffeError, or a file that cannot be opened) is one line on stderr and status 2; an
    interrupt is 130, a closed pipe 141. Any other exception is a bug and keeps its traceback.
    """
    try:
        status = main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        return 141
    except CaffeError as error:
        return _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        return 130
    return status or 0


def documented_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows a tool's docstring: the summary above the arguments, the rest below them."""
    summary, _, rest = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _fail(message: str) -> int:
    print(f"{os.path.basename(sys.argv[0])}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _modules() -> dict[str, Path]:
    """Every verb and its source. Those of the `caffe` program are in caffe_VERB.py: names like `time` and `test` would
    hide modules of Python's own from scripts in the same folder.
    """
    folder = Path(importlib.import_module("caffe_bridge.tools").__path__[0])
    return {path.stem.removeprefix("caffe_").replace("_", "-"): path for path in folder.glob("[!_]*.py")}


def verbs() -> dict[str, str]:
    """Every verb and the first line of its docstring, read from the tools' sources without importing them."""
    found = {}
    for verb, path in sorted(_modules().items()):
        tree = ast.parse(path.read_bytes(), filename=str(path))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[verb] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _help(argv: list[str] | None) -> None:
    table = verbs()
    width = max(map(len, table), default=0)
    print(USAGE.format(verbs="\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in table.items())))


def _call(argv: list[str] | None) -> int | None:
    verb, *arguments = argv or []
    verb, known = verb.replace("_", "-"), verbs()
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "`caffe-bridge --help` lists the verbs"
        raise CaffeError(f"unknown verb '{verb}'; {hint}")
    sys.argv = [f"caffe-bridge {verb}", *arguments]  # argparse and error lines take the command's name from here
    tool = importlib.import_module(f"caffe_bridge.tools.{_modules()[verb].stem}")
    return tool.main(arguments)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    sys.argv = ["caffe-bridge", *arguments]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return run(_help)
    if arguments[0] in ("-V", "--version"):
        print(f"caffe-bridge {__version__}")
        return 0
    return run(_call, arguments)


if __name__ == "__main__":
    sys.exit(main())
