# Sourced by experiment scripts, in the repository's folder, once they know GPU, NET, EXPERIMENT (the log's name) and, in
# "$@", what else they pass on. From here on all that is shown goes to a log in experiments/logs, too. Sets:
#   COMMAND  the program: $CAFFE_BRIDGE, or else the one in .venv or in PATH
#   DEVICE   its arguments for the device
#   SAID     a file for what a command says; `last_said TEXT` prints what follows TEXT in it
# Its functions read DATASET_TRAIN, DATASET_TEST, ITERS, NET_INIT and CFG (the last two may be empty):
#   train_net SOLVER OPTION...        trains, and sets NET_FINAL
#   test_net TASK PROTOTXT OPTION...  tests NET_FINAL
if [ -z "${CAFFE_BRIDGE:-}" ]; then
    CAFFE_BRIDGE=caffe-bridge
    [ ! -x .venv/bin/caffe-bridge ] || CAFFE_BRIDGE=.venv/bin/caffe-bridge
fi
read -ra COMMAND <<< "$CAFFE_BRIDGE"
DEVICE=(--gpu "$GPU")
[ "$GPU" != cpu ] || DEVICE=(--cpu)

SLUG=$(printf '%s' "$*" | tr -c '[:alnum:].=-' '_')
LOG=experiments/logs/${EXPERIMENT}_${NET}_${SLUG:0:100}.txt.$(date +%Y-%m-%d_%H-%M-%S)
mkdir -p experiments/logs
export PYTHONUNBUFFERED=1
exec &> >(tee -a "$LOG")
echo "Logging output to $LOG"
SAID=$(mktemp)
trap 'rm -f "$SAID"' EXIT

last_said() {
    sed -n "s/^$1//p" "$SAID" | tail -n 1
}

train_net() {
    time "${COMMAND[@]}" train-net "${DEVICE[@]}" \
        --solver "$1" \
        ${NET_INIT:+--weights "$NET_INIT"} \
        --imdb "$DATASET_TRAIN" \
        --iters "$ITERS" \
        ${CFG:+--cfg "$CFG"} \
        "${@:2}" | tee "$SAID"
    NET_FINAL=$(last_said "Wrote snapshot to: ")
}

test_net() {
    time "${COMMAND[@]}" test-net "${DEVICE[@]}" \
        --def "$2" \
        --net "$NET_FINAL" \
        --imdb "$DATASET_TEST" \
        ${CFG:+--cfg "$CFG"} \
        --task "$1" \
        "${@:3}"
}
