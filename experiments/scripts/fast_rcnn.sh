#!/bin/bash
# Trains Fast R-CNN on selective search's proposals and tests it, as published with py-faster-rcnn.
#
# usage:   experiments/scripts/fast_rcnn.sh GPU NET DATASET [--set KEY VALUE ...]
# example: experiments/scripts/fast_rcnn.sh 0 ZF pascal_voc --set EXP_DIR larger TRAIN.SCALES "[400,500,600]"
#
# GPU      number of the device; "cpu" for none
# NET      ZF, VGG_CNN_M_1024 or VGG16
# DATASET  pascal_voc or coco
# Environment: ITERS, DATASET_TRAIN, DATASET_TEST and NET_INIT replace the defaults below; PROPOSALS_TRAIN and
# PROPOSALS_TEST are files of proposals instead of data/selective_search_data/NAME.mat; MODELS is a folder laid out as
# py-faster-rcnn's models, to take nets from instead of prototxt; CAFFE_BRIDGE is the command to run.
set -euo pipefail

explain() {
    sed -n 's/^# \{0,1\}//; 2,12p' "$0" >&2
    exit 2
}
[ $# -ge 3 ] || explain
GPU=$1
NET=$2
DATASET=$3
NAME=fast_rcnn_${NET,,}
shift 3
case $DATASET in
    pascal_voc)
        ITERS=${ITERS:-40000}
        DATASET_TRAIN=${DATASET_TRAIN:-voc_2007_trainval}
        DATASET_TEST=${DATASET_TEST:-voc_2007_test}
        ;;
    coco)
        NAME=${NAME}_coco
        ITERS=${ITERS:-280000}
        DATASET_TRAIN=${DATASET_TRAIN:-coco_2014_train}
        DATASET_TEST=${DATASET_TEST:-coco_2014_minival}
        ;;
    *) explain ;;
esac
NET_INIT=${NET_INIT:-data/imagenet_models/$NET.v2.caffemodel}
CFG=
EXPERIMENT=fast_rcnn
FOLDER=prototxt/$NAME
[ -z "${MODELS:-}" ] || FOLDER=$MODELS/$DATASET/$NET/fast_rcnn

cd "$(dirname "$0")/../.."
if [ ! -f "$FOLDER/solver.prototxt" ]; then
    echo "${0##*/}: there is no $FOLDER/solver.prototxt for NET=$NET on $DATASET" >&2
    exit 2
fi
. experiments/scripts/begin.sh
set -x

train_net "$FOLDER/solver.prototxt" ${PROPOSALS_TRAIN:+--proposals "$PROPOSALS_TRAIN"} "$@"
test_net det "$FOLDER/test.prototxt" ${PROPOSALS_TEST:+--proposals "$PROPOSALS_TEST"} "$@"
