"""Test a detection or segmentation net on a data set.

The arguments are those of MNC's and py-faster-rcnn's tools/test_net.py; what they lack comes last. An interrupted test
goes on when it is started again. Results are in ROOT_DIR/output/EXP_DIR/DATA SET/NET. On several devices:

    torchrun --nproc-per-node 8 -m caffe_bridge.tools.test_net --def ... --net ... --imdb ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge import definition, mixed_precision, proposals, result_files
from caffe_bridge.class_count import class_count, with_classes
from caffe_bridge.cli import run
from caffe_bridge.config import cfg
from caffe_bridge.datasets import Dataset, cache, get_imdb, problems
from caffe_bridge.distributed import Workers, workers
from caffe_bridge.errors import CaffeError
from caffe_bridge.found import Found, FoundStore
from caffe_bridge.mask_proposals import MaskProposals, usual_folder
from caffe_bridge.net import Net
from caffe_bridge.projects import project_of
from caffe_bridge.testing import PER_IMAGE, evaluate, limit_scores, look_at_all, looker
from caffe_bridge.tools._data_set_flags import (
    add_defaults,
    add_net,
    announce,
    apply_settings,
    data_set_parser,
    results_folder,
    wait_for_weights,
)

TASKS = ("seg", "det", "vis_seg", "cfm")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser, more = data_set_parser(__doc__, "voc_2007_test")
    add_net(parser, "test net")
    parser.add_argument("--comp", action="store_true", help="has no effect, as in the original: all files are kept")
    parser.add_argument(
        "--task",
        choices=TASKS,
        help="masks, boxes, pictures of masks, masks of proposals (default: det for py-faster-rcnn's nets, else seg)",
    )
    parser.add_argument("--vis", action="store_true", help="draw what is found in every image")
    parser.add_argument(
        "--num_dets",
        type=int,
        default=PER_IMAGE,
        metavar="N",
        help="most boxes an image, for py-faster-rcnn's nets (%(default)s)",
    )
    more.add_argument("--classes", type=int, metavar="N", help="make the net for N classes, background included")
    more.add_argument("--metric", choices=["07", "area"], help="average precision of boxes; by the data set's year")
    more.add_argument("--coco", action="store_true", help="COCO's figures too, and the ground truth in its format")
    more.add_argument("--amp", choices=["bf16"], help="matrix products in bfloat16")
    more.add_argument(
        "--proposals",
        metavar="PATH",
        help="for cfm: the folder prepare-mcg-maskdb made (data/cache/...); for Fast R-CNN: the file of boxes",
    )
    add_defaults(more)
    more.add_argument("--again", action="store_true", help="do not use what an earlier test of this net found")
    return parser.parse_args(argv)


def read_net(args: argparse.Namespace, imdb: Dataset, me: Workers) -> Net:
    """The net to test, with its weights."""
    read = definition.read_net(args.prototxt, "TEST")
    if args.classes is not None:
        read = with_classes(read, args.classes)
    if class_count(read) != imdb.num_classes:
        raise CaffeError(
            f"{imdb.name} has {imdb.num_classes} classes, {args.prototxt} {class_count(read)} (background included): "
            f"make the net for them with --classes {imdb.num_classes}"
        )
    net = Net(read, args.weights).to(me.device)
    if args.amp:
        mixed_precision.use_bfloat16(net)
    return net


def results_key(args: argparse.Namespace, net: Net, imdb: Dataset, task: str) -> dict[str, Any]:
    """What the results of an image depend on."""
    return {
        **net_key(net, args.weights, imdb),
        "task": task,
        "amp": args.amp,
        "rules": [args.defaults, args.num_dets],
        "proposals": [identity(path) for path in args.proposals.split(",")] if args.proposals else None,
    }


def net_key(net: Net, weights: str, imdb: Dataset) -> dict[str, Any]:
    """What any results of a net depend on."""
    used = {name: value for name, value in cfg.items() if name not in ("TRAIN", "ROOT_DIR", "DATA_DIR", "GPU_ID")}
    text = net.definition.param.SerializeToString(deterministic=True)
    names = hashlib.sha256("\n".join([*imdb.classes, *imdb.image_paths]).encode())
    return {
        "weights": identity(weights),
        "net": hashlib.sha256(text).hexdigest(),
        "images": names.hexdigest(),
        "settings": json.loads(json.dumps(used, default=lambda value: value.tolist())),
        "max_size": cfg.TRAIN.MAX_SIZE,
    }


def identity(path: str) -> list[Any]:
    """What tells a file, or a folder of MATLAB files, from others of its name."""
    place = Path(path).resolve()
    if place.is_dir():
        return [str(place), cache.fingerprint([], sorted(map(str, place.glob("*.mat"))))]
    status = place.stat() if place.is_file() else None
    return [str(place), *([] if status is None else [status.st_size, status.st_mtime_ns])]


def find(args: argparse.Namespace, imdb: Dataset, folder: Path, me: Workers) -> list[Found]:
    """What the net finds in all images; empty in processes other than the first."""
    net = read_net(args, imdb, me)
    task = "seg" if args.task == "vis_seg" else args.task
    if task == "cfm":
        args.proposals = args.proposals or usual_folder(imdb)
    look = looker(net, imdb, task, args.defaults, read_proposals(args, net, imdb), args.num_dets)
    store = FoundStore(folder / f"found_{task}", results_key(args, net, imdb, task))
    return limit_scores(look_at_all(look, imdb, store, me, args.again))


def read_proposals(args: argparse.Namespace, net: Net, imdb: Dataset) -> MaskProposals | list[np.ndarray] | None:
    """Those the net looks at, if it does."""
    if args.task == "cfm":
        return MaskProposals(imdb, args.proposals)
    return proposals.of_dataset(imdb, args.proposals, cfg.TEST.PROPOSAL_METHOD) if "rois" in net.inputs else None


def report(args: argparse.Namespace, imdb: Dataset, found: list[Found], folder: Path) -> None:
    """Write and print how good the results are."""
    metric = None if args.metric is None else args.metric == "07"
    judged = evaluate(imdb, found, args.task, metric)
    entries = result_files.coco_results(imdb, found)
    kinds = ["bbox"] if args.task == "det" else ["segm", "bbox"]
    (folder / f"{kinds[0]}.json").write_text(json.dumps(entries), encoding="utf-8")
    result_files.write_voc(folder, imdb, found)
    if args.coco:
        (folder / "ground_truth.json").write_text(json.dumps(result_files.coco_truth(imdb)), encoding="utf-8")
        for kind in kinds:
            judged.coco[kind] = result_files.coco_figures(imdb, entries, kind)
    result_files.write_report(folder, judged)
    result_files.write_page(folder / "best_and_worst.png", imdb, found)
    print(judged.table())
    for kind, figures in judged.coco.items():
        # Of sizes that no instance has, COCO's figure is -1.
        shown = [f"{name} {100 * value:.1f}" if value >= 0 else f"{name} none" for name, value in figures.items()]
        print(f"COCO {kind}: {', '.join(shown)}")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when the test is done."""
    args = parse_args(argv)
    args.defaults = args.defaults or project_of(definition.read_net(args.prototxt, "TEST"))
    apply_settings(args)
    if args.task is None:
        args.task = "det" if args.defaults == "py_faster_rcnn" else "seg"
    wait_for_weights(args)
    if not Path(args.weights).is_file():
        raise CaffeError(f"--net {args.weights}: there is no such file; --wait waits for it")
    with workers(args.gpu, args.cpu) as me:
        announce(args, me)
        imdb = get_imdb(args.imdb, args.data, problems.parse(args.on))
        folder = results_folder(imdb.name, args.weights)
        found = find(args, imdb, folder, me)
        if me.first:
            if args.task == "vis_seg":
                result_files.write_pictures(folder, imdb, found)
            else:
                report(args, imdb, found, folder)
                if args.vis:
                    result_files.write_drawings(folder / "found", imdb, found)
            print(f"Results are in {folder}")
        me.wait()
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
