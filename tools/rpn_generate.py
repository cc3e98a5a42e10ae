"""Propose boxes for the images of a data set with a trained RPN, for Fast R-CNN to train and be tested on.

The arguments are those of py-faster-rcnn's tools/rpn_generate.py; what it lacks comes last. All anchors are looked at,
and up to 2000 boxes an image kept. Interrupted, it goes on when it is started again. The file is
ROOT_DIR/output/EXP_DIR/DATA SET/NET/NET_rpn_proposals.safetensors; one that ends in .pkl is py-faster-rcnn's own kind.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from caffe_bridge import proposals
from caffe_bridge.cli import run
from caffe_bridge.config import cfg
from caffe_bridge.datasets import Dataset, get_imdb, problems
from caffe_bridge.definition import read_net
from caffe_bridge.distributed import Workers, workers
from caffe_bridge.errors import CaffeError
from caffe_bridge.evaluation import proposal_recall
from caffe_bridge.found import Found, FoundStore
from caffe_bridge.net import Net
from caffe_bridge.projects import project_of
from caffe_bridge.testing import look_at_all
from caffe_bridge.tools.test_net import net_key, wait_for
from caffe_bridge.tools.train_net import add_defaults, announce, apply_settings, output_folder

PER_IMAGE = 2000


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest)
    parser.add_argument("--gpu", type=int, metavar="N", help="the GPU to use; the first one by default")
    parser.add_argument("--def", dest="prototxt", required=True, metavar="PROTOTXT", help="test net of the RPN")
    parser.add_argument("--net", dest="weights", required=True, metavar="WEIGHTS", help="its weights")
    parser.add_argument("--cfg", metavar="YAML", help="settings")
    parser.add_argument("--wait", nargs="?", const="yes", metavar="YES", help="wait until the weights are there")
    parser.add_argument(
        "--imdb", default="voc_2007_test", metavar="NAME", help="data sets, joined by + (default: %(default)s)"
    )
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="settings; comes last")
    more = parser.add_argument_group("not in the original")
    more.add_argument("--cpu", action="store_true", help="run on the CPU (the default where there is no GPU)")
    more.add_argument("--data", metavar="DIR", help="the data set's folder, where it is not below cfg.DATA_DIR")
    more.add_argument("--on", **problems.FLAG)
    more.add_argument("--out", metavar="FILE", help="where to write the proposals")
    more.add_argument("--again", action="store_true", help="do not use what an earlier run with this net proposed")
    add_defaults(more)
    return parser.parse_args(argv)


def propose(net: Net, image: np.ndarray) -> Found:
    """The boxes that an RPN proposes for an image, by falling score; all of class 1."""
    boxes, scores = proposals.propose(net, image)
    rows = torch.cat([boxes, scores], dim=1).float().cpu().numpy()
    nothing = np.empty(0, np.float32)
    masks, classes = np.zeros((len(rows), 0, 0), bool), np.ones(len(rows), np.int64)
    return Found(rows, classes, masks, nothing, nothing.astype(np.int64))


def generate(args: argparse.Namespace, me: Workers) -> str:
    """Write the proposals; returns the file's path."""
    cfg.TEST.RPN_PRE_NMS_TOP_N, cfg.TEST.RPN_POST_NMS_TOP_N = -1, PER_IMAGE
    imdb = get_imdb(args.imdb, args.data, problems.parse(args.on))
    net = Net(args.prototxt, args.weights, phase="TEST").to(me.device)
    for blob in ("rois", "scores"):
        if blob not in net.graph.shapes:
            raise CaffeError(f"{args.prototxt} has no blob {blob}, which the test net of an RPN makes")
    name = Path(args.weights).name.removesuffix(".h5").removesuffix(".caffemodel")
    folder = output_folder(imdb.name) / name
    folder.mkdir(parents=True, exist_ok=True)
    path = args.out or str(folder / f"{name}_rpn_proposals{proposals.SUFFIX}")
    store = FoundStore(folder / "proposed", net_key(net, args.weights, imdb))
    found = look_at_all(lambda i, image: propose(net, image), imdb, store, me, args.again)
    if me.first:
        boxes = [image.boxes[:, :4] for image in found]
        proposals.write(path, boxes, imdb.image_names)
        print(recall(imdb, boxes))
        print(f"Wrote RPN proposals to {path}")
    me.wait()
    return path


def recall(imdb: Dataset, boxes: list[np.ndarray]) -> str:
    """How much of what is there the proposals cover."""
    truths = [imdb.annotation(i) for i in range(imdb.num_images)]
    found = proposal_recall(boxes, [truth.boxes[~truth.difficult] for truth in truths])
    covered, average = 100 * found.recalls[0], 100 * found.average
    each = sum(map(len, boxes)) / max(len(boxes), 1)
    return f"{each:.0f} proposals an image: recall {covered:.1f} % at 0.5, {average:.1f} % averaged over 0.5 to 0.95"


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when the file is written."""
    args = parse_args(argv)
    args.defaults = args.defaults or project_of(read_net(args.prototxt, "TEST"))
    apply_settings(args)
    if args.wait and args.wait.lower() not in ("no", "false", "0", ""):
        wait_for(Path(args.weights))
    with workers(args.gpu, args.cpu) as me:
        announce(args, me)
        generate(args, me)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
