#!/usr/bin/env bash
# check.sh PYTHON: build the wheel with PYTHON, install it into a fresh environment and use it there, away from the sources.
#
# The environment borrows PYTHON's site-packages through a .pth line for the dependencies (torch is large). Python does
# not read .pth files in a folder added that way, so PYTHON's own editable installation of the package stays out of sight.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$(cd "$here/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

rm -rf "$root/build/lib"*  # files removed from the sources would otherwise live on in the wheel
"$python" -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$scratch" "$root"
"$python" -m venv --without-pip "$scratch/venv"
"$python" -m pip --quiet --python "$scratch/venv/bin/python" install --no-deps "$scratch"/*.whl
site=$("$scratch/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/dependencies.pth"

cp "$here/smoke.py" "$here/typed.py" "$scratch"
cd "$scratch"
venv/bin/python smoke.py
venv/bin/caffe-bridge info
venv/bin/python -m mypy --strict typed.py
