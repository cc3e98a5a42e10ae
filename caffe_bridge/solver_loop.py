"""The training loop of Caffe's Solver, whatever face its nets have."""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from caffe_bridge import definition as definitions
from caffe_bridge import optim, randomness, text_format
from caffe_bridge import solver_state as states
from caffe_bridge import weights as weight_files
from caffe_bridge.errors import SolverError
from caffe_bridge.graph import Graph
from caffe_bridge.learning_rate import learning_rate
from caffe_bridge.net import WeightPaths

log = logging.getLogger("caffe_bridge")

NetType = TypeVar("NetType")
Requests = Callable[[], str | None]


class SolverLoop(ABC, Generic[NetType]):
    """Steps, tests, snapshots and restores as Caffe's Solver does; a subclass says what a net is and how it runs.

    Args:
        solver: a path, the text itself, or a SolverParameter.
        weights: a weights file (or several) for the train and test nets, in place of the solver's own `weights`.
        path: where a SolverParameter was read from, to find the nets it names.

    Attributes:
        param: the SolverParameter.
        net, test_nets: the nets; test nets use the train net's parameters.
        iter: updates made so far.
        requests: called once an iteration, returns "snapshot", "stop" or None (signals use it).
        continues_data: whether `restore` puts the data layers of our own snapshots back to where they were.

    Raises:
        SolverError: wrong or missing fields, an unknown rule or policy, a snapshot prefix that cannot be written.
        CaffeError: a net cannot be built; see `caffe_bridge.Net`.
    """

    continues_data: bool = True

    def __init__(self, solver: Any, weights: WeightPaths | None = None, path: str = ""):
        self.param, found = definitions.read_solver(solver)
        log.info("Initializing solver from parameters: \n%s", text_format.format(self.param))
        self._check()
        if self.param.random_seed >= 0:
            randomness.seed(self.param.random_seed)
        given = list(self.param.weights) if weights is None else weights
        train, tests = definitions.solver_nets(self.param, path or found)
        log.info("Creating training net %s", _train_source(self.param))
        self.net = self._make_net(train, given)
        self.test_nets = []
        for i, (test, source) in enumerate(zip(tests, _test_sources(self.param, len(tests)))):
            log.info("Creating test net (#%d) specified by %s", i, source)
            self.test_nets.append(self._make_net(test, given))
        log.info("Solver scaffolding done.")
        self.iter = 0
        self.requests: Requests = lambda: None
        self._current_step = 0
        self._early_exit = False
        self._losses: list[float] = []
        self._smoothed = 0.0
        self._callbacks: list[tuple[Callable[[], Any], Callable[[], Any]]] = []
        self.optimizer = self._make_optimizer()

    # -- what a face provides ----------------------------------------------------------------------------

    @abstractmethod
    def _make_net(self, definition: definitions.NetDefinition, weights: Any) -> NetType:
        """Build a net and load its weights."""

    @abstractmethod
    def _graph(self, net: NetType) -> Graph:
        """The wired layers of a net."""

    @abstractmethod
    def _forward(self, net: NetType) -> tuple[float, list[tuple[str, torch.Tensor]]]:
        """Run forward only: the total loss and the output blobs, in Caffe's order."""

    @abstractmethod
    def _forward_backward(self) -> tuple[float, list[tuple[str, torch.Tensor]]]:
        """Run the train net and add to its parameters' gradients."""

    @abstractmethod
    def _share(self, test_net: NetType) -> None:
        """Let a test net use the train net's parameters."""

    @abstractmethod
    def _load(self, path: str) -> None:
        """Load weights into the train net."""

    @abstractmethod
    def _save(self, path: str) -> None:
        """Write the train net's weights."""

    # -- set-up ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        param = self.param
        if param.type not in optim.RULES:
            raise SolverError(f"solver type '{param.type}' is unknown; Caffe has {', '.join(optim.RULES)}")
        if param.average_loss < 1 or param.iter_size < 1:
            raise SolverError("average_loss and iter_size must be at least 1")
        if param.regularization_type not in optim.REGULARIZATIONS:
            raise SolverError(f"regularization_type is L2 or L1, not '{param.regularization_type}'")
        if param.type in ("AdaGrad", "RMSProp") and param.momentum:
            raise SolverError(f"momentum cannot be used with {param.type}")
        if param.type == "RMSProp" and not 0 <= param.rms_decay < 1:
            raise SolverError(f"rms_decay must lie in [0, 1), not {param.rms_decay}")
        learning_rate(param, 0)
        if param.snapshot:
            self._check_snapshot_prefix()

    def _check_snapshot_prefix(self) -> None:
        folder = Path(self.param.snapshot_prefix or ".").parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise SolverError(
                f"cannot write snapshots to '{self.param.snapshot_prefix}': make sure that the folder exists and "
                "is writable"
            )

    def _make_optimizer(self) -> optim.CaffeOptimizer:
        param = self.param
        options = {"weight_decay": param.weight_decay, "regularization": param.regularization_type}
        if param.type in ("SGD", "Nesterov", "AdaDelta", "Adam"):
            options["momentum"] = param.momentum
        if param.type == "Adam":
            options["momentum2"] = param.momentum2
        if param.type == "RMSProp":
            options["rms_decay"] = param.rms_decay
        if param.type not in ("SGD", "Nesterov"):
            options["delta"] = param.delta
        self.learnable: list[torch.nn.Parameter] = []
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        graph = self._graph(self.net)
        for node in graph.nodes:
            for i, owner in enumerate(graph.owners[node.name]):
                if owner == (node.name, i):
                    spec, parameter = node.layer.param.param[i], node.layer.blobs.parameter(i)
                    self.learnable.append(parameter)
                    groups.setdefault((spec.lr_mult, spec.decay_mult), []).append(parameter)
        listed = [{"params": ps, "lr_mult": lr, "decay_mult": decay} for (lr, decay), ps in groups.items()]
        return optim.RULES[param.type](listed or [{"params": []}], lr=param.base_lr, **options)

    def add_callback(self, on_start: Callable[[], Any], on_gradients_ready: Callable[[], Any]) -> None:
        """Call `on_start()` before each iteration's passes and `on_gradients_ready()` before its update."""
        self._callbacks.append((on_start, on_gradients_ready))

    # -- training ----------------------------------------------------------------------------------------

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return learning_rate(self.param, self.iter, self._current_step)[0]

    def solve(self, resume_file: str | Path | None = None) -> None:
        """Train to max_iter, from a solver state if one is given; snapshot and test at the end as Caffe does."""
        log.info("Solving %s", self._graph_name())
        log.info("Learning Rate Policy: %s", self.param.lr_policy)
        self._early_exit = False
        if resume_file is not None:
            log.info("Restoring previous solver status from %s", resume_file)
            self.restore(resume_file)
        start = self.iter
        self.step(self.param.max_iter - self.iter)
        if self.param.snapshot_after_train and (not self.param.snapshot or self.iter % self.param.snapshot):
            self.snapshot()
        if self._early_exit:
            log.info("Optimization stopped early.")
            return
        if self.param.display and self.iter % self.param.display == 0:
            loss, _ = self._forward(self.net)
            self._smooth(loss, start)
            log.info("Iteration %d, loss = %s", self.iter, number(self._smoothed))
        if self.param.test_interval and self.iter % self.param.test_interval == 0:
            self.test_all()
        log.info("Optimization Done.")

    @abstractmethod
    def _graph_name(self) -> str:
        """The train net's name."""

    def step(self, iterations: int) -> None:
        """Make this many updates, each from iter_size forward and backward passes."""
        param, start = self.param, self.iter
        self._losses, self._smoothed = [], 0.0
        shown_at, shown_iter = time.monotonic(), self.iter
        while self.iter < start + iterations:
            self._clear_gradients()
            if (
                param.test_interval
                and self.iter % param.test_interval == 0
                and (self.iter > 0 or param.test_initialization)
            ):
                self.test_all()
                if self._early_exit:
                    break
            for on_start, _ in self._callbacks:
                on_start()
            loss = 0.0
            outputs: list[tuple[str, torch.Tensor]] = []
            for _ in range(param.iter_size):
                part, outputs = self._forward_backward()
                loss += part / param.iter_size
            self._smooth(loss, start)
            if param.display and self.iter % param.display == 0:
                now = time.monotonic()
                self._log_iteration(outputs, (self.iter - shown_iter) / max(now - shown_at, 1e-9), now - shown_at)
                shown_at, shown_iter = now, self.iter
            for _, on_gradients_ready in self._callbacks:
                on_gradients_ready()
            self.apply_update()
            request = self.requests()
            if (param.snapshot and self.iter % param.snapshot == 0) or request == "snapshot":
                self.snapshot()
            if request == "stop":
                self._early_exit = True
                break

    def _clear_gradients(self) -> None:
        for parameter in self.learnable:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            else:
                parameter.grad.zero_()

    def apply_update(self) -> None:
        """Clip, normalise and regularise the gradients, update the parameters and count the iteration."""
        param = self.param
        rate, self._current_step = learning_rate(param, self.iter, self._current_step)
        if param.display and self.iter % param.display == 0:
            log.info("Iteration %d, lr = %s", self.iter, number(rate))
        gradients = [p.grad for p in self.learnable if p.grad is not None]
        if param.clip_gradients >= 0 and gradients:
            norm = optim.clip_gradients(gradients, param.clip_gradients)
            if norm > param.clip_gradients:
                log.info(
                    "Gradient clipping: scaling down gradients (L2 norm %s > %s) by scale factor %s",
                    *map(number, (norm, param.clip_gradients, param.clip_gradients / norm)),
                )
        if param.iter_size > 1 and gradients:
            torch._foreach_mul_(gradients, 1 / param.iter_size)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if "iteration" in group:
                group["iteration"] = self.iter
        self.optimizer.step()
        self.iter += 1

    def _smooth(self, loss: float, start: int) -> None:
        window = self.param.average_loss
        if len(self._losses) < window:
            self._losses.append(loss)
            size = len(self._losses)
            self._smoothed = (self._smoothed * (size - 1) + loss) / size
        else:
            i = (self.iter - start) % window
            self._smoothed += (loss - self._losses[i]) / window
            self._losses[i] = loss

    def _log_iteration(self, outputs: list[tuple[str, torch.Tensor]], rate: float, seconds: float) -> None:
        log.info(
            "Iteration %d (%s iter/s, %ss/%d iters), loss = %s",
            self.iter, number(rate), number(seconds), self.param.display, number(self._smoothed),
        )  # fmt: skip
        self._log_outputs("Train", self.net, [(name, value) for name, blob in outputs for value in _values(blob)])

    def _log_outputs(self, kind: str, net: NetType, outputs: list[tuple[str, float]]) -> None:
        weights = {top: w for node in self._graph(net).nodes for top, w in zip(node.tops, node.loss_weights) if w}
        for i, (name, value) in enumerate(outputs):
            log.info("    %s net output #%d: %s", kind, i, scored(name, value, weights.get(name, 0.0)))

    # -- testing -----------------------------------------------------------------------------------------

    def test_all(self) -> list[dict[str, Any]]:
        """Test every test net; returns for each the mean of its output blobs over test_iter passes."""
        return [self.test(i) for i in range(len(self.test_nets)) if not self._early_exit]

    def test(self, index: int = 0) -> dict[str, Any]:
        """Run one test net test_iter times with the train net's parameters; returns the mean outputs."""
        log.info("Iteration %d, Testing net (#%d)", self.iter, index)
        net, passes = self.test_nets[index], self.param.test_iter[index]
        self._share(net)
        total_loss = 0.0
        sums: dict[str, torch.Tensor] = {}
        for _ in range(passes):
            if self._answer_requests():
                log.info("Test interrupted.")
                return {}
            loss, outputs = self._forward(net)
            total_loss += loss
            for name, blob in outputs:
                value = blob.detach().double()
                sums[name] = sums[name] + value if name in sums else value.clone()
        if self.param.test_compute_loss:
            log.info("Test loss: %s", number(total_loss / max(passes, 1)))
        means = {name: value / passes for name, value in sums.items()}
        self._log_outputs("Test", net, [(name, value) for name, blob in means.items() for value in _values(blob)])
        return {name: value.cpu().numpy() for name, value in means.items()}

    def _answer_requests(self) -> bool:
        while (request := self.requests()) is not None:
            if request == "snapshot":
                self.snapshot()
            elif request == "stop":
                self._early_exit = True
        return self._early_exit

    # -- snapshots ---------------------------------------------------------------------------------------

    def snapshot(self) -> str:
        """Write weights and solver state at snapshot_prefix; returns the solver state's path."""
        hdf5 = self.param.snapshot_format == self.param.HDF5
        stem = f"{self.param.snapshot_prefix}_iter_{self.iter}"
        extension = ".h5" if hdf5 else ""
        model, state = f"{stem}.caffemodel{extension}", f"{stem}.solverstate{extension}"
        log.info("Snapshotting to %s file %s", "HDF5" if hdf5 else "binary proto", model)
        self._save(model)
        log.info("Snapshotting solver state to %s file %s", "HDF5" if hdf5 else "binary proto", state)
        weight_files.write_solverstate(state, self._state(model), hdf5=hdf5)
        return state

    def _state(self, model: str) -> weight_files.SolverState:
        history = [
            self.optimizer._histories([parameter], name)[0]
            for name in self.optimizer.history
            for parameter in self.learnable
        ]
        layers = {node.name: node.layer for node in self._graph(self.net).nodes}
        return states.capture(self.iter, model, self._current_step, history, layers)

    def restore(self, path: str | Path) -> None:
        """Continue from a solver state, with the weights it names.

        Raises:
            SolverError: the state belongs to another net or rule.
            WeightsError: the state or its weights cannot be read.
        """
        state = weight_files.read_solverstate(path)
        count = len(self.optimizer.history) * len(self.learnable)
        if len(state.history) != count:
            raise SolverError(
                f"{path}: {len(state.history)} history blobs, this net and {self.param.type} have {count}"
            )
        pairs = [(name, p) for name in self.optimizer.history for p in self.learnable]
        for saved, (_, parameter) in zip(state.history, pairs):
            if saved.size != parameter.numel():
                raise SolverError(
                    f"{path}: a history blob has {saved.size} elements for {parameter.numel()} parameters"
                )
        if state.learned_net:
            self._load(states.find_learned_net(state.learned_net, path))
        for saved, (name, parameter) in zip(state.history, pairs):
            weight_files.copy_values(self.optimizer._histories([parameter], name)[0], saved)
        self.iter, self._current_step = state.iter, state.current_step
        layers = {node.name: node.layer for node in self._graph(self.net).nodes}
        states.resume_streams(state, layers if self.continues_data else {})


def number(value: float) -> str:
    """As a C++ stream prints it, but never -0: that would be a loss over nothing."""
    return f"{value + 0.0:.6g}"


def scored(name: str, value: float, weight: float) -> str:
    """An output blob's value as Caffe logs it, with its part of the loss where it has one."""
    scaled = f" (* {number(weight)} = {number(weight * value)} loss)" if weight else ""
    return f"{name} = {number(value)}{scaled}"


def _train_source(param: Any) -> str:
    for name in ("net", "train_net"):
        if param.HasField(name):
            return f"from {name} file: {getattr(param, name)}"
    return "specified in " + ("net_param." if param.HasField("net_param") else "train_net_param.")


def _test_sources(param: Any, count: int) -> list[str]:
    """Where each of `count` test nets comes from; what the lists of test nets leave is the train net's."""
    generic = f"net file: {param.net}" if param.HasField("net") else "net_param"
    named = ["test_net_param"] * len(param.test_net_param) + [f"test_net file: {name}" for name in param.test_net]
    return named + [generic] * (count - len(named))


def _values(blob: torch.Tensor) -> list[float]:
    return blob.detach().reshape(-1).tolist()
