#!/bin/bash
# Tries convolutional feature masking from nothing: makes images of textured shapes and proposals for them, trains
# prototxt/cfm_tiny and tests it on images it has not seen. On two cores of a CPU it takes less than five minutes.
#
# usage:   experiments/scripts/cfm_tiny.sh [FOLDER [SEED]]
# example: experiments/scripts/cfm_tiny.sh output/cfm_tiny_1 1
#
# FOLDER  where everything goes (output/cfm_tiny); what it has of images and proposals is used again
# SEED    of the images (0)
# Environment: IMAGES, ITERS and JOBS replace the defaults below; CAFFE_BRIDGE is the command to run.
set -euo pipefail

if [ $# -gt 2 ] || [[ ${1:-} = -* ]]; then
    sed -n 's/^# \{0,1\}//; 2,10p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/../.."
FOLDER=${1:-output/cfm_tiny}
SEED=${2:-0}
IMAGES=${IMAGES:-500}
ITERS=${ITERS:-2000}
JOBS=${JOBS:-2}
DATA=$FOLDER/data
DATASET_TRAIN=shapes_train
DATASET_TEST=shapes_val
NET_INIT=
CFG=experiments/cfgs/cfm_tiny.yml
GPU=cpu NET=tiny EXPERIMENT=cfm
. experiments/scripts/begin.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the layers are so small that threads would wait for each other
set -x

[ -d "$DATA/shapes" ] || "${COMMAND[@]}" make-shapes --out "$DATA/shapes" --train "$IMAGES" --val 100 --seed "$SEED"
for part in train val; do
    SET=(--db "shapes_$part" --root "$DATA/shapes" --para_job "$JOBS")
    "${COMMAND[@]}" make-proposals "${SET[@]}" --out "$FOLDER/mcg_$part" --superpixels 150 --count 400
    [ $part = train ] || SET+=(--test)
    "${COMMAND[@]}" prepare-mcg-maskdb "${SET[@]}" --input "$FOLDER/mcg_$part" \
        --output "$DATA/cache/shapes_${part}_mcg_maskdb"
done

PLACES=(--set ROOT_DIR "$FOLDER" DATA_DIR "$DATA")
train_net prototxt/cfm_tiny/solver.prototxt "${PLACES[@]}"
test_net cfm prototxt/cfm_tiny/test.prototxt "${PLACES[@]}"
