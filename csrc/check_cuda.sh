#!/bin/sh
# Compiles every CUDA source for sm_80 and sm_90 without linking, against the headers of any torch build.
# usage: csrc/check_cuda.sh [python]
set -e
cd "$(dirname "$0")"
include=$("${1:-python}" -c "import torch.utils.cpp_extension as e; print(e.include_paths()[0])")
target=$("${1:-python}" -c "import re; print(re.search('0x[0-9a-f]+', open('../setup.py').read()).group())")
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
for source in *.cu; do
  echo "$source"
  nvcc -std=c++17 -O3 --fmad=false -Werror all-warnings -DTORCH_TARGET_VERSION="$target" -isystem "$include" --threads 2 \
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -c "$source" -o "$objects/$source.o"
done
