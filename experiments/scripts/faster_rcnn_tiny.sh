#!/bin/bash
# Tries Faster R-CNN from nothing: makes images of textured shapes, trains prototxt/faster_rcnn_tiny and tests it on images
# it has not seen. On two cores of a CPU it takes less than five minutes.
#
# usage:   experiments/scripts/faster_rcnn_tiny.sh [FOLDER [SEED]]
# example: experiments/scripts/faster_rcnn_tiny.sh output/faster_rcnn_tiny_1 1
#
# FOLDER  where everything goes (output/faster_rcnn_tiny); images that it has are used again
# SEED    of the images (0)
# Environment: IMAGES and ITERS replace the defaults below; CAFFE_BRIDGE is the command to run.
set -euo pipefail

if [ $# -gt 2 ] || [[ ${1:-} = -* ]]; then
    sed -n 's/^# \{0,1\}//; 2,10p' "$0" >&2
    exit 2
fi
cd "$(dirname "$0")/../.."
FOLDER=${1:-output/faster_rcnn_tiny}
SEED=${2:-0}
IMAGES=${IMAGES:-1500}
ITERS=${ITERS:-3500}
DATA=$FOLDER/data
DATASET_TRAIN=shapes_train
DATASET_TEST=shapes_val
NET_INIT=
CFG=experiments/cfgs/faster_rcnn_tiny.yml
GPU=cpu NET=tiny EXPERIMENT=faster_rcnn
. experiments/scripts/begin.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the layers are so small that threads would wait for each other
set -x

[ -d "$DATA/shapes" ] || "${COMMAND[@]}" make-shapes --out "$DATA/shapes" --train "$IMAGES" --val 100 --seed "$SEED"

PLACES=(--set ROOT_DIR "$FOLDER" DATA_DIR "$DATA")
train_net prototxt/faster_rcnn_tiny/solver.prototxt "${PLACES[@]}"
test_net det prototxt/faster_rcnn_tiny/test.prototxt "${PLACES[@]}"
