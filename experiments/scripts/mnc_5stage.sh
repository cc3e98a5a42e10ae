#!/bin/bash
# Trains the five-stage cascade on SBD's training images and tests it on the validation images, as published.
#
# usage:   experiments/scripts/mnc_5stage.sh GPU NET [--set KEY VALUE ...]
# example: experiments/scripts/mnc_5stage.sh 0 VGG16 --set EXP_DIR larger RNG_SEED 42 TRAIN.SCALES "[400,500,600,700]"
#
# GPU   number of the device; "cpu" for none
# NET   VGG16: prototxt/mnc5, as published; ResNet50 or ResNet101: prototxt/mnc5_resnet50, mnc5_resnet101. Each goes with
#       experiments/cfgs/NET/mnc_5stage.yml
# Environment: ITERS, DATASET_TRAIN, DATASET_TEST and NET_INIT replace the defaults below; CAFFE_BRIDGE is the command
# to run, for example "torchrun --nproc-per-node 8 -m caffe_bridge.cli".
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n 's/^# \{0,1\}//; 2,11p' "$0" >&2
    exit 2
fi
GPU=$1
NET=$2
shift 2
ITERS=${ITERS:-25000}
DATASET_TRAIN=${DATASET_TRAIN:-voc_2012_seg_train}
DATASET_TEST=${DATASET_TEST:-voc_2012_seg_val}
case $NET in
    ResNet*) MODEL=mnc5_resnet${NET#ResNet} INIT=ResNet-${NET#ResNet}-model.caffemodel ;;
    *) MODEL=mnc5 INIT=$NET.mask.caffemodel ;;
esac
NET_INIT=${NET_INIT:-data/imagenet_models/$INIT}
EXPERIMENT=mnc_5stage

cd "$(dirname "$0")/../.."
CFG=experiments/cfgs/$NET/mnc_5stage.yml
if [ ! -f "$CFG" ]; then
    echo "$0: there are no settings $CFG for NET=$NET" >&2
    exit 2
fi
. experiments/scripts/begin.sh
set -x

train_net "prototxt/$MODEL/solver.prototxt" "$@"
test_net seg "prototxt/$MODEL/test.prototxt" "$@"
