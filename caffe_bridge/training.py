"""Training detection and segmentation nets on a data set: Caffe's solver, and what MNC's training program adds to it.

    trainer = Trainer("prototxt/mnc5/solver.prototxt", "VGG16.mask.caffemodel", folder="output/run")
    trainer.feed(imdb)
    trainer.solve()

On top of `caffe_bridge.Solver`:

- The data layer gets the data set, and box regressors are trained on normalised targets; files hold weights that
  predict plain ones, as MNC's do.
- Several processes can share the passes of an iteration (`caffe_bridge.distributed`).
- A run that diverges ends with the layer it began in.
- It is recorded: log lines, a curve, and what `Recorder`s are added.

Source: MNC, lib/caffeWrapper/SolverWrapper.py.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from caffe_bridge import definition as definitions
from caffe_bridge import divergence, feeding, randomness
from caffe_bridge.class_count import with_classes
from caffe_bridge.config import cfg
from caffe_bridge.distributed import Workers
from caffe_bridge.errors import CaffeError, LayerError, SolverError, WeightsError
from caffe_bridge.net import Net, WeightPaths
from caffe_bridge.solver import Solver
from caffe_bridge.solver_loop import Requests, log
from caffe_bridge.weights import SolverState, read_solverstate

if TYPE_CHECKING:
    from caffe_bridge.datasets import Dataset

REGRESSOR = "bbox_pred"
REQUESTS = (None, "snapshot", "stop")

Forward = Callable[[], dict[str, torch.Tensor]]


class Trainer(Solver):
    """A solver whose train net is fed from a data set.

    Args:
        solver: a solver prototxt, as `caffe_bridge.Solver` takes it.
        weights: files the nets start from.
        folder: where snapshots go, named as the solver's `snapshot_prefix` is; made if it does not exist.
        max_iter: updates to make in all, in place of the solver's own number.
        classes: make the nets for this many classes, background included; None leaves them as they are.
        ignore_shapes: layers whose weights in the files have other shapes keep their fillers' values.
        workers: the processes that share each iteration: every one of them makes `iter_size` passes, and the update is
            that of one process with `iter_size` times as many.
        seed_passes: draw the random numbers of every pass from this seed and the number of the pass. Runs on several
            processes must; then the draws do not depend on who makes a pass. None draws them from one stream, as the
            original does.
        path: where a SolverParameter was read from, to find the nets it names.

    Attributes:
        forward: runs the train net and returns its outputs; may be replaced by something faster.
        recorders: called after each displayed iteration with its number and its values by name.
        saved: the weights file written last, or that the run went on from; "" before.

    Raises:
        CaffeError: see `caffe_bridge.Solver`; also several processes without `seed_passes`.
    """

    def __init__(
        self,
        solver: Any,
        weights: WeightPaths | None = None,
        *,
        folder: str | Path | None = None,
        max_iter: int | None = None,
        classes: int | None = None,
        ignore_shapes: bool = False,
        workers: Workers | None = None,
        seed_passes: int | None = None,
        path: str = "",
    ):
        self.workers = workers or Workers()
        if self.workers.count > 1 and seed_passes is None:
            raise CaffeError("processes that share a run need seed_passes: they draw their random numbers from it")
        self._classes, self._ignore_shapes, self._seed = classes, ignore_shapes, seed_passes
        param, found = definitions.read_solver(solver)
        if folder is not None:
            _snapshot_into(param, Path(folder))
        if max_iter is not None:
            param.max_iter = max_iter
        super().__init__(param, weights, path or found)
        self.param.iter_size *= self.workers.count
        self.net.to(self.workers.device)
        self.workers.share([parameter.data for parameter in self.net.parameters()])
        self.forward: Forward = self.net
        self.recorders: list[Callable[[int, dict[str, float]], Any]] = []
        self._watch = divergence.LossWatch()
        self._bbox: tuple[torch.Tensor, torch.Tensor] | None = None
        self._pass = 0
        self._own_loss = 0.0
        self._own_outputs: list[tuple[str, torch.Tensor]] = []
        self._request: str | None = None
        self.saved = ""
        self.add_callback(self._start_iteration, self._check_gradients)

    def _make_net(self, definition: definitions.NetDefinition, weights: Any) -> Net:
        if self._classes is not None:
            definition = with_classes(definition, self._classes)
        net = Net(definition)
        for path in weights.split(",") if isinstance(weights, str) else weights:
            log.info("%s", net.load(path, ignore_shapes=self._ignore_shapes))
        return net

    # -- data --------------------------------------------------------------------------------------------

    def feed(self, imdb: Dataset, proposals: str | None = None) -> int:
        """Give the train net's data layers a data set; see `caffe_bridge.feeding`.

        Args:
            proposals: the images' proposals, for nets that train on them.

        Returns:
            The number of images, mirrored ones included.

        Raises:
            CaffeError: see `feeding.feed`.
        """
        fed = feeding.feed(self.net, imdb, proposals)
        if fed.statistics is not None:
            mean, deviation = fed.statistics
            self._bbox = torch.from_numpy(mean).ravel(), torch.from_numpy(deviation).ravel()
        return fed.entries

    # -- passes ------------------------------------------------------------------------------------------

    def _start_iteration(self) -> None:
        self._pass = 0
        self._own_loss = 0.0

    def _forward_backward(self) -> tuple[float, list[tuple[str, torch.Tensor]]]:
        number, self._pass = self._pass, self._pass + 1
        if self._seed is not None:
            sequence = np.random.SeedSequence([self._seed, self.iter * self.param.iter_size + number])
            seeds = sequence.generate_state(2)
            np.random.seed(seeds[0])
            randomness.seed(int(seeds[1]))
        loss = 0.0
        if number % self.workers.count == self.workers.rank:
            loss = self._train_on_one()
            self._own_loss += loss
        else:
            self._pass_over_one()
        if self.workers.count > 1 and number == self.param.iter_size - 1:
            loss += self._agree() - self._own_loss
        return loss, self._own_outputs

    def _train_on_one(self) -> float:
        before = self._streams()
        try:
            outputs = self.forward()
            total = self.net.loss(outputs)
            loss = float(total.detach())
            problem = self._watch.problem(loss)
        except LayerError as error:  # some layers refuse what is no number
            problem = str(error)
        if problem is not None:
            self._return_to(before)
            self._fail(f"{problem}: {divergence.failing_layer(self.net, self.net)}")
        if total.requires_grad:
            total.backward()
        self._own_outputs = [(name, outputs[name].detach()) for name in self.net.graph.outputs]
        return loss

    @torch.no_grad()
    def _pass_over_one(self) -> None:
        """Let the data layers go on as they do in a pass, which another process makes."""
        for node in self.net.graph.nodes:
            if not node.bottoms and node.type != "Input":
                layer: Any = node.layer
                layer.skip() if hasattr(layer, "skip") else layer()

    def _agree(self) -> float:
        """The sum of all processes' losses; also gathers what any of them was asked to do."""
        wish = REQUESTS.index(self._asked())
        sums = torch.zeros(1 + len(REQUESTS), dtype=torch.float64, device=self.workers.device)
        sums[0], sums[1 + wish] = self._own_loss, 1
        self.workers.sum([sums])
        self._request = next((name for name, asked in zip(REQUESTS[::-1], sums.tolist()[::-1]) if asked), None)
        return float(sums[0])

    def _check_gradients(self) -> None:
        self.workers.sum([parameter.grad for parameter in self.learnable if parameter.grad is not None])
        place = divergence.failing_gradient(self.net.graph)
        if place is not None:
            self._fail(f"a gradient is not finite: {place}")

    def _fail(self, problem: str) -> None:
        kept = f"the last snapshot is {self.saved}" if self.saved else "there is no snapshot yet"
        raise SolverError(f"iteration {self.iter}: {problem}; {kept}. A lower base_lr or clip_gradients may help")

    # -- requests ----------------------------------------------------------------------------------------

    @property
    def requests(self) -> Requests:  # type: ignore[override]
        """As in `SolverLoop`; processes that share a run all do what one of them was asked for."""
        return self._asked if self.workers.count == 1 else self._agreed

    @requests.setter
    def requests(self, asked: Requests) -> None:
        self._asked = asked

    def _agreed(self) -> str | None:
        request, self._request = self._request, None
        return request

    # -- recording ---------------------------------------------------------------------------------------

    def _log_iteration(self, outputs: list[tuple[str, torch.Tensor]], rate: float, seconds: float) -> None:
        super()._log_iteration(outputs, rate, seconds)
        values = {"loss": self._smoothed, "lr": self.lr, "iterations_per_second": rate}
        values.update((name, float(blob)) for name, blob in outputs if blob.numel() == 1)
        for record in self.recorders:
            record(self.iter, values)

    # -- snapshots ---------------------------------------------------------------------------------------

    def snapshot(self) -> str:
        """Write weights and state; returns the state's path, "" where another process writes them."""
        return super().snapshot() if self.workers.first else ""

    def _regressor(self) -> list[torch.Tensor]:
        """Weight and bias of the box regressor, if its targets are normalised."""
        if self._bbox is None or REGRESSOR not in self.net.params:
            return []
        blobs = [blob.data for blob in self.net.params[REGRESSOR]]
        if blobs[0].shape[0] != len(self._bbox[0]):
            raise SolverError(f"layer '{REGRESSOR}' has {blobs[0].shape[0]} outputs for {len(self._bbox[0])} targets")
        return blobs

    def _save(self, path: str) -> None:
        blobs = self._regressor()
        kept = [blob.clone() for blob in blobs]
        if blobs:
            mean, deviation = self._statistics(blobs[0])
            blobs[0].mul_(deviation[:, None])
            if len(blobs) > 1:
                blobs[1].mul_(deviation).add_(mean)
        try:
            super()._save(path)
        finally:
            for blob, values in zip(blobs, kept):
                blob.copy_(values)
        self.saved = path

    def _load(self, path: str) -> None:
        super()._load(path)
        self.saved = path

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._bbox is not None
        mean, deviation = self._bbox
        return mean.to(like), deviation.to(like)

    def _state(self, model: str) -> SolverState:
        state = super()._state(model)
        streams = json.loads(state.streams)
        streams["regressor"] = [_encode(blob) for blob in self._regressor()]
        streams["passes"] = {"seed": self._seed, "iter_size": self.param.iter_size}
        return dataclasses.replace(state, streams=json.dumps(streams).encode())

    def restore(self, path: str | Path) -> None:
        """Continue from a solver state; the data set has to be there already (`feed`).

        The very numbers the box regressor had come from the state; where it has none, for Caffe or the original
        program wrote it, they are computed from the weights.

        Raises:
            SolverError: see `caffe_bridge.Solver`.
            WeightsError: the files cannot be read.
        """
        super().restore(path)
        blobs = self._regressor()
        state = read_solverstate(path)
        try:
            streams = json.loads(state.streams) if state.streams else {}
            recorded = [_decode(text, blob) for text, blob in zip(streams.get("regressor", []), blobs)]
            passes = streams.get("passes", {"seed": self._seed, "iter_size": self.param.iter_size})
            seed, size = passes["seed"], passes["iter_size"]
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise WeightsError(f"{path}: what was kept of the run is damaged: {error}") from error
        if recorded:
            for blob, values in zip(blobs, recorded):
                blob.copy_(values)
        elif blobs:
            mean, deviation = self._statistics(blobs[0])
            deviation = torch.where(deviation == 0, 1, deviation)
            blobs[0].div_(deviation[:, None])
            if len(blobs) > 1:
                blobs[1].sub_(mean).div_(deviation)
        if self._seed is not None and seed is not None:
            self._seed = seed
        if (seed is None, size) != (self._seed is None, self.param.iter_size):
            log.warning(
                "%s was written with %d passes per iteration and %s; this run, with %d and %s, goes on differently",
                path, size, _drawing(seed), self.param.iter_size, _drawing(self._seed),
            )  # fmt: skip

    def _streams(self) -> tuple[Any, ...]:
        layers: list[Any] = [node.layer for node in self.net.graph.nodes if hasattr(node.layer, "stream_state")]
        return np.random.get_state(), randomness.state(), [(layer, layer.stream_state()) for layer in layers]

    def _return_to(self, streams: tuple[Any, ...]) -> None:
        np.random.set_state(streams[0])
        randomness.set_state(streams[1])
        for layer, position in streams[2]:
            layer.set_stream_state(position)


def latest_state(prefix: str | Path) -> str | None:
    """The solver state written last among the snapshots of a prefix, or None."""
    folder, name = Path(prefix).parent, re.escape(Path(prefix).name)
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(rf"{name}_iter_(\d+)\.solverstate(\.h5)?", path.name)
        if match:
            found.append((path.stat().st_mtime_ns, int(match[1]), str(path)))
    return max(found)[2] if found else None


def _snapshot_into(param: Any, folder: Path) -> None:
    """Make a solver write its snapshots as MNC's training program does: name, place, interval and format."""
    folder.mkdir(parents=True, exist_ok=True)
    infix = f"_{cfg.TRAIN.SNAPSHOT_INFIX}" if cfg.TRAIN.SNAPSHOT_INFIX else ""
    name = Path(param.snapshot_prefix).name or "net"
    param.snapshot_prefix = str(folder / f"{name}{infix}")
    param.snapshot = cfg.TRAIN.SNAPSHOT_ITERS
    if cfg.MNC_MODE:
        param.snapshot_format = param.HDF5


def _drawing(seed: int | None) -> str:
    return "one random stream" if seed is None else "seeded passes"


def _encode(blob: torch.Tensor) -> str:
    return base64.b64encode(blob.detach().cpu().numpy().tobytes()).decode()


def _decode(text: str, like: torch.Tensor) -> torch.Tensor:
    values = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=like.dtype)
    return values.to(like.device).view_as(like)
