"""What is packaged is complete, light to import, and free of traces of the machine it was written on."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import caffe_bridge

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]
TOOLS = sorted((ROOT / "tools").glob("[!_]*.py"))
HEAVY = {"cv2", "easydict", "google.protobuf", "h5py", "matplotlib", "onnx", "onnxruntime", "scipy", "torch"}


def folder_of(package: str) -> Path:
    """Where a package's sources are, by setuptools' package-dir rule: the longest mapped prefix wins."""
    prefix, rest = package, []
    while prefix not in FOLDERS:
        prefix, _, last = prefix.rpartition(".")
        rest.insert(0, last)
    return ROOT.joinpath(FOLDERS[prefix], *rest)


def tracked() -> list[Path]:
    """The files under version control (or, in an unpacked archive, all of them)."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_import_is_light():
    code = f"import sys, caffe_bridge; print(*sorted({HEAVY!r} & set(sys.modules)))"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert imported.split() == []


def test_modules_the_guides_use_come_with_the_package():
    code = "import caffe_bridge as c; c.optim.Nesterov, c.pycaffe.install, c.config.cfg"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_version_everywhere():
    assert PROJECT["project"]["version"] == caffe_bridge.__version__ == importlib.metadata.version("caffe-bridge")
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == caffe_bridge.__version__
    assert f"## {caffe_bridge.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_listed_package_exists(package):
    assert any(path.is_file() for path in folder_of(package).rglob("*"))


def test_every_package_is_listed_once():
    sources = {path.parent for name in FOLDERS.values() for path in (ROOT / name).rglob("*.py")}
    listed = {folder_of(package) for package in PACKAGES}
    assert {folder for folder in sources if (folder / "__init__.py").is_file()} <= listed
    assert len(PACKAGES) == len(set(PACKAGES))


def test_requirements_are_pinned():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version (<|>=) "3\.\d+")?', pin) for pin in pins)
    locked = {pin.partition("==")[0] for pin in pins}
    assert {re.match(r"[\w-]+", name)[0] for name in PROJECT["project"]["dependencies"]} <= locked


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_tool_is_a_verb_and_a_script(tool):
    tree = ast.parse(tool.read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "main" in functions, "a helper module's name starts with an underscore"
    assert [argument.arg for argument in functions["main"].args.args] == ["argv"]
    assert len(functions["main"].args.defaults) == 1
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    assert summary.endswith(".")
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    sys.exit(run(main))"
    assert tool.stem not in sys.stdlib_module_names, "a script's folder comes first in sys.path"


def test_no_trace_of_a_machine():
    # Written so that this file does not match itself.
    words = re.compile(rb"/(w)ork/|/(f)arm/|/(r)oot/|/(h)ome/[a-z]|/(t)mp/\w|(index|find)-(url|links)")
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in tracked()
        if (match := words.search(path.read_bytes()))
    ]
    assert found == []
