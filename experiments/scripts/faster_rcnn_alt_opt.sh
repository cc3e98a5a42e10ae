#!/bin/bash
# Trains Faster R-CNN in four steps and tests it, as published with py-faster-rcnn.
#
# usage:   experiments/scripts/faster_rcnn_alt_opt.sh GPU NET DATASET [--set KEY VALUE ...]
# example: experiments/scripts/faster_rcnn_alt_opt.sh 0 ZF pascal_voc --set EXP_DIR larger TRAIN.SCALES "[400,500,600]"
#
# GPU      number of the device; "cpu" for none
# NET      ZF, VGG_CNN_M_1024 or VGG16
# DATASET  pascal_voc
# Environment: ITERS (four numbers with commas), DATASET_TRAIN, DATASET_TEST, NET_INIT and CFG replace the defaults
# below; MODELS is a folder laid out as py-faster-rcnn's models, to take nets from instead of prototxt; CAFFE_BRIDGE is
# the command to run.
set -euo pipefail

if [ $# -lt 3 ] || [ "$3" != pascal_voc ]; then
    sed -n 's/^# \{0,1\}//; 2,12p' "$0" >&2
    exit 2
fi
GPU=$1
NET=$2
DATASET=$3
shift 3
ITERS=${ITERS:-80000,40000,80000,40000}
DATASET_TRAIN=${DATASET_TRAIN:-voc_2007_trainval}
DATASET_TEST=${DATASET_TEST:-voc_2007_test}
CFG=${CFG:-experiments/cfgs/faster_rcnn_alt_opt.yml}
NET_INIT=${NET_INIT:-data/imagenet_models/$NET.v2.caffemodel}
EXPERIMENT=faster_rcnn_alt_opt
FOLDER=prototxt/faster_rcnn_alt_opt_${NET,,}
TEST=$FOLDER/faster_rcnn_test.prototxt
if [ -n "${MODELS:-}" ]; then
    FOLDER=$MODELS/$DATASET/$NET/faster_rcnn_alt_opt
    TEST=$FOLDER/faster_rcnn_test.pt
fi

cd "$(dirname "$0")/../.."
if [ ! -f "$TEST" ]; then
    echo "${0##*/}: there is no $TEST for NET=$NET" >&2
    exit 2
fi
. experiments/scripts/begin.sh
set -x

time "${COMMAND[@]}" train-faster-rcnn-alt-opt "${DEVICE[@]}" \
    --net_name "$NET" \
    --models "$FOLDER" \
    --weights "$NET_INIT" \
    --imdb "$DATASET_TRAIN" \
    --iters "$ITERS" \
    --cfg "$CFG" \
    "$@" | tee "$SAID"

NET_FINAL=$(last_said "Final model: ")
test_net det "$TEST" "$@"
