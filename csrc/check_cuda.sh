#!/bin/sh
# Compiles every CUDA source for sm_80 and sm_90 without linking, two at a time, against the headers of any torch build.
# usage: csrc/check_cuda.sh [python]
set -e
sources=$(dirname "$0")
include=$("${1:-python}" -c "import torch.utils.cpp_extension as e; print(e.include_paths()[0])")
target=$(grep -o '0x[0-9a-f]\{16\}' "$sources/../setup.py")
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
for source in "$sources"/*.cu; do echo "$source"; done | xargs -P 2 -I{} sh -c \
  'echo {}; nvcc -std=c++17 -O3 --fmad=false -Werror all-warnings -DTORCH_TARGET_VERSION='"$target"' -isystem '"$include"' \
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -c {} -o '"$objects"'/$(basename {}).o'
