"""Propose boxes for the images of a data set with a trained RPN, for Fast R-CNN to train and be tested on.

The arguments are those of py-faster-rcnn's tools/rpn_generate.py; what it lacks comes last. All anchors are looked at,
and up to 2000 boxes an image kept. Interrupted, it goes on when it is started again. The file is
ROOT_DIR/output/EXP_DIR/DATA SET/NET/NET_rpn_proposals.safetensors; one that ends in .pkl is py-faster-rcnn's own kind.
"""

from __future__ import annotations

import argparse
import sys

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
from caffe_bridge.tools._data_set_flags import (
    add_defaults,
    add_net,
    announce,
    apply_settings,
    data_set_parser,
    results_folder,
    wait_for_weights,
)
from caffe_bridge.tools.test_net import net_key

PER_IMAGE = 2000


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser, more = data_set_parser(__doc__, "voc_2007_test")
    add_net(parser, "test net of the RPN")
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
    folder = results_folder(imdb.name, args.weights)
    path = args.out or str(folder / f"{folder.name}_rpn_proposals{proposals.SUFFIX}")
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
    wait_for_weights(args)
    with workers(args.gpu, args.cpu) as me:
        announce(args, me)
        generate(args, me)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
