"""Train Faster R-CNN in four steps: an RPN, Fast R-CNN on its proposals, and both once more on common convolutions.

The arguments are those of py-faster-rcnn's tools/train_faster_rcnn_alt_opt.py; what it lacks comes last. Both nets
start from --weights; the second RPN starts from Fast R-CNN and the second Fast R-CNN from that RPN, both without
training the convolutions they share. Of each step the last weights stay, in ROOT_DIR/output/EXP_DIR/DATA SET, and in
the end NAME_faster_rcnn_final.caffemodel. Started again, it goes on where it was stopped; steps whose settings, nets or
weights have changed are done anew, with those that follow from them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_bridge.cli import run
from caffe_bridge.config import PROJECTS, cfg
from caffe_bridge.datasets import get_imdb, problems
from caffe_bridge.definition import NetDefinition, read_net, read_solver, solver_nets
from caffe_bridge.distributed import Workers, workers
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools import rpn_generate, train_net
from caffe_bridge.tools._data_set_flags import announce, apply_settings, data_set_parser, output_folder
from caffe_bridge.tools.test_net import identity
from caffe_bridge.weights.files import replacing

ITERATIONS = (80000, 40000, 80000, 40000)
SUFFIXES = (".pt", ".prototxt")
SETTINGS: dict[str, dict[str, Any]] = {
    "rpn": {"HAS_RPN": True, "BBOX_REG": False, "PROPOSAL_METHOD": "gt", "IMS_PER_BATCH": 1},
    "proposals": {},
    "fast_rcnn": {"HAS_RPN": False, "PROPOSAL_METHOD": "rpn", "IMS_PER_BATCH": 2},
}


@dataclass(frozen=True)
class Step:
    """One of the steps, or the proposing between them.

    Attributes:
        stage: 1 or 2.
        kind: "rpn", "proposals" or "fast_rcnn".
        title: what is printed above it.
        weights: name of the step that its weights come from; None for those of --weights.
        proposals: name of the step that its proposals come from.
    """

    stage: int
    kind: str
    title: str
    weights: str | None = None
    proposals: str | None = None

    @property
    def name(self) -> str:
        """The step's name in files and messages."""
        return f"stage{self.stage}_{self.kind}"


STEPS = (
    Step(1, "rpn", "Stage 1 RPN, init from ImageNet model"),
    Step(1, "proposals", "Stage 1 RPN, generate proposals", "stage1_rpn"),
    Step(1, "fast_rcnn", "Stage 1 Fast R-CNN using RPN proposals, init from ImageNet model", None, "stage1_proposals"),
    Step(2, "rpn", "Stage 2 RPN, init from stage 1 Fast R-CNN model", "stage1_fast_rcnn"),
    Step(2, "proposals", "Stage 2 RPN, generate proposals", "stage2_rpn"),
    Step(2, "fast_rcnn", "Stage 2 Fast R-CNN, init from stage 2 RPN model", "stage2_rpn", "stage2_proposals"),
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser, more = data_set_parser(__doc__, "voc_2007_trainval")
    parser.add_argument("--net_name", required=True, metavar="NAME", help="the net, such as ZF")
    parser.add_argument("--weights", metavar="WEIGHTS", help="weights to start from")
    more.add_argument("--classes", type=int, metavar="N", help="make the nets for N classes, background included")
    more.add_argument(
        "--iters",
        type=_four,
        default=ITERATIONS,
        metavar="N,N,N,N",
        help=f"updates to make in each step (default: {','.join(map(str, ITERATIONS))})",
    )
    more.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of the solvers and test nets (default: MODELS_DIR/NAME/faster_rcnn_alt_opt, or those packaged)",
    )
    args = parser.parse_args(argv)
    args.defaults = PROJECTS[1]
    return args


def _four(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of four numbers such as 80000,40000,80000,40000")
    return tuple(map(int, parts))


class Models:
    """The prototxt files of the steps in a folder, with py-faster-rcnn's names for them or ours."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def of(cls, args: argparse.Namespace) -> Models:
        """Those of --models, else the usual ones. Raises CaffeError when there are none."""
        packaged = importlib.resources.files("caffe_bridge.prototxt") / f"faster_rcnn_alt_opt_{args.net_name.lower()}"
        usual = Path(cfg.MODELS_DIR, args.net_name, "faster_rcnn_alt_opt"), Path(str(packaged))
        for folder in [args.models] if args.models else usual:
            if folder.is_dir():
                return cls(folder)
        wanted = args.models or usual[0]
        raise CaffeError(f"--net_name {args.net_name}: there is no folder {wanted}; --models names one")

    def find(self, stem: str) -> str:
        """The file whose name begins so. Raises CaffeError when there is none."""
        found = sorted(path for path in self.folder.glob(f"{stem}*") if path.suffix in SUFFIXES)
        if not found:
            raise CaffeError(f"{self.folder}: has no {stem}*{' or *'.join(SUFFIXES)}")
        return str(found[0])

    def solver(self, step: Step) -> str:
        """The solver of a training step."""
        return self.find(f"{step.name}_solver")

    def net(self, step: Step) -> NetDefinition:
        """The net of a step."""
        if step.kind == "proposals":
            return read_net(self.find("rpn_test"), "TEST")
        return solver_nets(*read_solver(self.solver(step)))[0]


class Progress:
    """Which steps are done, and of what: a JSON file that knows each step's key and the file it made."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.steps: dict[str, dict[str, str]] = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.steps = {}

    def file(self, step: Step, key: str) -> str | None:
        """What the step made, if it is done and there."""
        known = self._known(step, key).get("file")
        return known if known is not None and os.path.exists(known) else None

    def begun(self, step: Step, key: str) -> bool:
        """Whether the step was begun with this key."""
        return bool(self._known(step, key))

    def note(self, step: Step, key: str, **file: str) -> None:
        """Keep that the step is begun or, with its `file`, done."""
        self.steps[step.name] = {"key": key, **file}
        with replacing(self.path) as temporary:
            Path(temporary).write_text(json.dumps(self.steps, indent=1), encoding="utf-8")

    def _known(self, step: Step, key: str) -> dict[str, str]:
        known = self.steps.get(step.name)
        return known if isinstance(known, dict) and known.get("key") == key else {}


class Schedule:
    """The steps on one data set, done or to be done."""

    def __init__(self, args: argparse.Namespace, me: Workers):
        self.args, self.me = args, me
        self.models = Models.of(args)
        imdb = get_imdb(args.imdb, args.data, problems.parse(args.on))
        self.folder = output_folder(imdb.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._images = [*imdb.classes, *imdb.image_paths]
        self._file = self.folder / f"{args.net_name}_alt_opt.json"
        self._keys: dict[str, str] = {}
        self._made: dict[str, str] = {}

    def make(self, step: Step) -> bool:
        """Do a step, or find that it is done. Returns whether it came to its end."""
        args = self._arguments(step)
        key = self._keys[step.name] = self._key(step, args)
        progress = Progress(self._file)
        self.me.wait()
        made = progress.file(step, key)
        if made is None:
            if self.me.first and not progress.begun(step, key):
                self._remove_snapshots(step)
                progress.note(step, key)
            self.me.wait()
            made = rpn_generate.generate(args, self.me) if step.kind == "proposals" else self._train(step, args)
            if made is None:
                return False
            if self.me.first:
                self._remove_snapshots(step, but=made)
                progress.note(step, key, file=made)
        elif self.me.first:
            print(f"Done before: {made}")
        self._made[step.name] = made
        return True

    def finish(self) -> str:
        """Make the final weights, a copy of the last step's; returns their path."""
        last = self._made[STEPS[-1].name]
        final = self.folder / f"{self.args.net_name}_faster_rcnn_final{last[last.rindex('.caffemodel') :]}"
        if self.me.first:
            print(f"cp {last} -> {final}")
            with replacing(final) as temporary:
                shutil.copyfile(last, temporary)
        self.me.wait()
        return str(final)

    def _arguments(self, step: Step) -> argparse.Namespace:
        """The arguments of train-net or rpn-generate for a step; cfg is set for it, too."""
        args = self.args
        apply_settings(args)
        cfg.GPU_ID = self.me.device.index or 0
        cfg.TRAIN.SNAPSHOT_INFIX = f"stage{step.stage}"
        cfg.TRAIN.update(SETTINGS[step.kind])
        weights = args.weights if step.weights is None else self._made[step.weights]
        common = ["--imdb", args.imdb, *(["--data", args.data] if args.data else [])]
        common += [part for choice in args.on for part in ("--on", choice)]
        if step.kind == "proposals":
            return rpn_generate.parse_args(["--def", self.models.find("rpn_test"), "--net", str(weights), *common])
        iters = args.iters[2 * step.stage - 2 + (step.kind == "fast_rcnn")]
        own = ["--solver", self.models.solver(step), "--iters", str(iters), "--resume"]
        own += ["--weights", weights] if weights else []
        own += ["--classes", str(args.classes)] if args.classes is not None else []
        own += ["--proposals", self._made[step.proposals]] if step.proposals else []
        return train_net.parse_args([*own, *common])

    def _key(self, step: Step, args: argparse.Namespace) -> str:
        """A digest of all that a step's result depends on."""
        settings = {name: value for name, value in cfg.items() if name not in ("ROOT_DIR", "DATA_DIR", "GPU_ID")}
        settings["TRAIN"] = {name: value for name, value in cfg.TRAIN.items() if name != "SNAPSHOT_ITERS"}
        start = [identity(path) for path in (self.args.weights or "").split(",") if path]
        before = [self._keys[name] for name in (step.weights, step.proposals) if name]
        parts = [step.name, start if step.weights is None else None, before, self._images, settings]
        if step.kind != "proposals":
            solver, _ = read_solver(args.solver)
            parts += [str(solver), args.iters, args.classes]
        net = self.models.net(step).param.SerializeToString(deterministic=True)
        text = json.dumps(parts, sort_keys=True, default=lambda value: value.tolist())
        return hashlib.sha256(net + text.encode()).hexdigest()

    def _train(self, step: Step, args: argparse.Namespace) -> str | None:
        """The weights of a training step; None when it was stopped."""
        trainer = train_net.run_training(args, self.me, f"training_{step.name}")
        if trainer.iter < args.iters:
            return None
        return next(iter(self._snapshots(step, args.iters)))

    def _snapshots(self, step: Step, iteration: int | None = None) -> list[str]:
        """The weights files of a training step, of one iteration or of all."""
        solver, _ = read_solver(self.models.solver(step))
        prefix = re.escape(f"{Path(solver.snapshot_prefix).name or 'net'}_stage{step.stage}")
        number = r"\d+" if iteration is None else str(iteration)
        name = re.compile(rf"{prefix}_iter_{number}\.caffemodel(\.h5)?")
        return sorted(str(path) for path in self.folder.iterdir() if name.fullmatch(path.name))

    def _remove_snapshots(self, step: Step, but: str = "") -> None:
        """Delete a training step's weights and states, `but` one weights file."""
        if step.kind == "proposals":
            return
        for path in map(Path, self._snapshots(step)):
            path.with_name(path.name.replace(".caffemodel", ".solverstate")).unlink(missing_ok=True)
            if str(path) != but:
                path.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when the final weights are there, 130 when a step was stopped."""
    args = parse_args(argv)
    apply_settings(args)
    if args.weights:
        for path in args.weights.split(","):
            if not Path(path).is_file():
                raise CaffeError(f"--weights {path}: there is no such file")
    with workers(args.gpu, args.cpu) as me:
        announce(args, me)
        schedule = Schedule(args, me)
        for step in STEPS:
            if me.first:
                line = "~" * len(step.title)
                print(f"{line}\n{step.title}\n{line}")
            if not schedule.make(step):
                return 130
        final = schedule.finish()
        if me.first:
            print(f"Final model: {final}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
