#!/bin/bash
# Trains Faster R-CNN end to end and tests it, as published with MNC and with py-faster-rcnn.
#
# usage:   experiments/scripts/faster_rcnn_end2end.sh GPU NET [DATASET] [--set KEY VALUE ...]
# example: experiments/scripts/faster_rcnn_end2end.sh 0 ZF pascal_voc --set EXP_DIR larger TRAIN.SCALES "[400,500,600]"
#
# GPU      number of the device; "cpu" for none
# NET      ZF, VGG_CNN_M_1024 or VGG16
# DATASET  pascal_voc or coco, with py-faster-rcnn's net and settings; without it MNC's of VGG16, else pascal_voc
# Environment: ITERS, DATASET_TRAIN, DATASET_TEST, NET_INIT and CFG replace the defaults below; MODELS is a folder laid
# out as py-faster-rcnn's models, to take nets from instead of prototxt; CAFFE_BRIDGE is the command to run.
set -euo pipefail

explain() {
    sed -n 's/^# \{0,1\}//; 2,11p' "$0" >&2
    exit 2
}
[ $# -ge 2 ] || explain
GPU=$1
NET=$2
DATASET=pascal_voc
SETTINGS=faster_rcnn_end2end
NAME=faster_rcnn_${NET,,}
shift 2
if [ $# -gt 0 ] && [ "${1:0:1}" != - ]; then
    DATASET=$1
    shift
elif [ "$NET" = VGG16 ]; then
    SETTINGS=VGG16/faster_rcnn_end2end
    NAME=faster_rcnn
fi
case $DATASET in
    pascal_voc)
        ITERS=${ITERS:-70000}
        DATASET_TRAIN=${DATASET_TRAIN:-voc_2007_trainval}
        DATASET_TEST=${DATASET_TEST:-voc_2007_test}
        ;;
    coco)
        NAME=${NAME}_coco
        ITERS=${ITERS:-490000}
        DATASET_TRAIN=${DATASET_TRAIN:-coco_2014_train}
        DATASET_TEST=${DATASET_TEST:-coco_2014_minival}
        ;;
    *) explain ;;
esac
CFG=${CFG:-experiments/cfgs/$SETTINGS.yml}
NET_INIT=${NET_INIT:-data/imagenet_models/$NET.v2.caffemodel}
EXPERIMENT=faster_rcnn_end2end
FOLDER=prototxt/$NAME
[ -z "${MODELS:-}" ] || FOLDER=$MODELS/$DATASET/$NET/faster_rcnn_end2end

cd "$(dirname "$0")/../.."
if [ ! -f "$FOLDER/solver.prototxt" ]; then
    echo "${0##*/}: there is no $FOLDER/solver.prototxt for NET=$NET on $DATASET" >&2
    exit 2
fi
. experiments/scripts/begin.sh
set -x

train_net "$FOLDER/solver.prototxt" "$@"
test_net det "$FOLDER/test.prototxt" "$@"
