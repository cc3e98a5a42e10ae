"""python -m caffe_bridge.pycaffe SCRIPT ARGS: run a script with `import caffe` answered by caffe-bridge."""

from __future__ import annotations

import io
import os
import sys
import types
from pathlib import Path

import caffe_bridge.pycaffe
from caffe_bridge import log


def run_script(path: str) -> None:
    """Run a script as `python path` would: it is `__main__`, with its own folder first on sys.path."""
    with io.open_code(str(Path(path).absolute())) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=__builtins__, __spec__=None, __cached__=None)
    sys.modules["__main__"] = main
    sys.path[0] = str(Path(path).resolve().parent)
    exec(code, main.__dict__)


def main() -> int:
    """Answer `import caffe` here and in child processes, then run the script."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m caffe_bridge.pycaffe SCRIPT ARGS", file=sys.stderr)
        return 2
    script = sys.argv[1]
    if not Path(script).is_file():
        print(f"caffe_bridge.pycaffe: error: no such script: {script}", file=sys.stderr)
        return 2
    sys.argv = sys.argv[1:]
    shim = str(Path(__file__).with_name("shim"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (shim, os.environ.get("PYTHONPATH"))))
    sys.path.insert(1, shim)  # multiprocessing hands sys.path to the children it spawns, not PYTHONPATH
    caffe_bridge.pycaffe.install()
    log.show()
    run_script(script)
    return 0


if __name__ == "__main__":
    sys.exit(main())
