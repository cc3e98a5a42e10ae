#!/bin/bash
# Trains convolutional feature masking on MCG's proposals of SBD's training images and tests it on those of the
# validation images, as published.
#
# usage:   experiments/scripts/cfm.sh GPU NET [--set KEY VALUE ...]
# example: experiments/scripts/cfm.sh 0 VGG16 --set EXP_DIR larger RNG_SEED 42 TRAIN.SCALES "[400,500,600,700]"
#
# GPU   number of the device; "cpu" for none
# NET   VGG16: prototxt/cfm with experiments/cfgs/VGG16/cfm.yml
# The proposals are in data/cache/voc_2012_train_mcg_maskdb and voc_2012_val_mcg_maskdb; prepare-mcg-maskdb makes them.
# Environment: ITERS, DATASET_TRAIN, DATASET_TEST and NET_INIT replace the defaults below; CAFFE_BRIDGE is the command
# to run, for example "torchrun --nproc-per-node 8 -m caffe_bridge.cli".
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n 's/^# \{0,1\}//; 2,12p' "$0" >&2
    exit 2
fi
GPU=$1
NET=$2
shift 2
ITERS=${ITERS:-30000}
DATASET_TRAIN=${DATASET_TRAIN:-voc_2012_seg_train}
DATASET_TEST=${DATASET_TEST:-voc_2012_seg_val}
NET_INIT=${NET_INIT:-data/imagenet_models/$NET.mask.caffemodel}
EXPERIMENT=cfm

cd "$(dirname "$0")/../.."
CFG=experiments/cfgs/$NET/cfm.yml
if [ ! -f "$CFG" ]; then
    echo "$0: there are no settings $CFG for NET=$NET" >&2
    exit 2
fi
. experiments/scripts/begin.sh
set -x

train_net prototxt/cfm/solver.prototxt "$@"
test_net cfm prototxt/cfm/test.prototxt "$@"
