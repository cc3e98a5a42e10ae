"""pycaffe's Net: every blob is there, under Caffe's names, with data and diff as live arrays."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge import definition as definitions
from caffe_bridge import weights as weight_files
from caffe_bridge.blob import Blob, ParameterBlob
from caffe_bridge.errors import CaffeError
from caffe_bridge.graph import AUTOMATIC_TOP, Node
from caffe_bridge.net import Net as TorchNet
from caffe_bridge.pycaffe import debug_info, modes
from caffe_bridge.pycaffe.executor import Executor
from caffe_bridge.python_layer import PythonLayer

Callback = Callable[[int], Any]


class LayerView:
    """A built-in layer as pycaffe shows it: `type` and `blobs`, and whatever methods the layer itself has."""

    def __init__(self, node: Node, blobs: list[Blob]):
        self._layer = node.layer
        self.type = node.type
        self.blobs = blobs

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Check that the layer can be set up for these blobs; its parameters stay as they are.

        Raises:
            LayerError: it cannot.
        """
        type(self._layer)(copy.deepcopy(self._layer.param), [blob.shape for blob in bottom], self._layer.phase)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the top blobs the shapes that follow from the bottoms'.

        Raises:
            LayerError: the layer cannot run on bottoms of these shapes.
        """
        for blob, shape in zip(top, self._layer.top_shapes([blob.shape for blob in bottom])):
            blob.reshape(*shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class SplitNet(TorchNet):
    """The torch net with Caffe's automatic splits, importing the Python layers its file names."""

    def _build(self, definition: definitions.NetDefinition) -> None:
        super()._build(definitions.insert_splits(definition))


class Net:
    """Caffe's Net over NumPy arrays.

        Net(network_file, phase, level=0, stages=None, weights=None)
        Net(network_file, weights_file, phase)

    Blobs and diffs are float32 arrays that stay where they are until a reshape that grows them. `backward` gives
    Caffe's diffs for the blobs and parameters that Caffe computes them for, and adds to those of parameters.

    Attributes:
        debug_info: whether to log mean magnitudes of blobs and diffs as layers run.

    Raises:
        CaffeError: a file is missing or wrong, a layer cannot be built; see `caffe_bridge.Net`.
    """

    def __init__(self, network_file: Any, *args: Any, **kwargs: Any):
        phase, level, stages, weights = _constructor_arguments(*args, **kwargs)
        self._setup(SplitNet(network_file, phase=phase, level=level, stages=stages, python_layers="import"))
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def from_torch(cls, net: TorchNet) -> Net:
        """A pycaffe view of a torch net: same parameters, blobs of its own."""
        self = cls.__new__(cls)
        self._setup(net)
        return self

    def _setup(self, net: TorchNet) -> None:
        self._net = net.to(modes.device())
        self._executor = Executor(net)
        self.params: OrderedDict[str, list[Blob]] = self._executor.params
        self.layers = [self._layer_view(node) for node in self._executor.nodes]
        self._callbacks: dict[str, list[Callback]] = {}
        self.debug_info: bool = net.definition.param.debug_info

    def _layer_view(self, node: Node) -> Any:
        if isinstance(node.layer, PythonLayer):
            return node.layer.user_layer
        return LayerView(node, self.params.get(node.name, []))

    # -- names -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._net.name

    @property
    def torch_net(self) -> TorchNet:
        """The torch module whose layers and parameters this net runs."""
        return self._net

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """Blob name to Blob, in the order they are made."""
        return self._executor.blobs

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Blob name to its loss weight, 0 for blobs that are no loss."""
        weights = OrderedDict((name, 0.0) for name in self.blobs)
        for node in self._executor.nodes:
            weights.update({top: w for top, w in zip(node.tops, node.loss_weights) if top in weights})
        return weights

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        """Layer name to layer."""
        return OrderedDict(zip(self._layer_names, self.layers))

    @property
    def _layer_names(self) -> list[str]:
        return [node.name for node in self._executor.nodes]

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    @property
    def _blobs(self) -> list[Blob]:
        return list(self.blobs.values())

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self.blob_loss_weights.values())

    @property
    def _inputs(self) -> list[int]:
        return self._blob_ids(self.inputs)

    @property
    def _outputs(self) -> list[int]:
        return self._blob_ids(self.outputs)

    def _bottom_ids(self, layer: int) -> list[int]:
        return self._blob_ids(self._executor.nodes[layer].bottoms)

    def _top_ids(self, layer: int) -> list[int]:
        return self._blob_ids(self._executor.nodes[layer].tops)

    def _blob_ids(self, names: Iterable[str]) -> list[int]:
        index = {name: i for i, name in enumerate(self.blobs)}
        return [index[name] for name in names]

    @property
    def inputs(self) -> list[str]:
        return self._net.inputs

    @property
    def outputs(self) -> list[str]:
        return list(self._net.graph.outputs)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Layer name to the blobs it reads."""
        return OrderedDict((node.name, list(node.bottoms)) for node in self._executor.nodes)

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Layer name to the blobs it makes."""
        return OrderedDict(
            (node.name, [AUTOMATIC_TOP if t.endswith(AUTOMATIC_TOP) else t for t in node.tops])
            for node in self._executor.nodes
        )

    # -- running -----------------------------------------------------------------------------------------

    def _index(self, layer: str) -> int:
        if layer not in self._layer_names:
            raise CaffeError(f"no layer is named '{layer}'")
        return self._layer_names.index(layer)

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Run the layers from `start` to `end` (all by default).

        Args:
            blobs: names of blobs to return besides the outputs.
            kwargs: input blob name to array; its first axis must be that of the blob.

        Returns:
            blob name to array: the net's outputs, or `end`'s tops, and `blobs`.
        """
        first = 0 if start is None else self._index(start)
        last = len(self.layers) - 1 if end is None else self._index(end)
        outputs = set(self.outputs if end is None else self.top_names[end]) | set(blobs or [])
        if kwargs:
            if set(kwargs) != set(self.inputs):
                raise CaffeError(f"the net's inputs are {', '.join(self.inputs)}; given {', '.join(kwargs)}")
            for name, value in kwargs.items():
                self._set_input(name, value)
        self._forward(first, last)
        return {name: self.blobs[name].data for name in outputs}

    def _set_input(self, name: str, value: np.ndarray) -> None:
        blob = self.blobs[name]
        if len(value) != (blob.shape[0] if blob.shape else 1):
            raise CaffeError(f"input '{name}' has {len(value)} items, its blob {blob.shape[0] if blob.shape else 1}")
        blob.data[...] = value

    def _forward(self, first: int, last: int) -> float:
        loss = 0.0
        for i in range(first, last + 1):
            self._run_callbacks("before_forward", i)
            loss += self._executor.forward(i)
            if self.debug_info:
                node = self._executor.nodes[i]
                debug_info.log_forward(node, self.blobs, self.params.get(node.name, []))
            self._run_callbacks("after_forward", i)
        return loss

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Run the layers' backward passes from `start` down to `end` (all by default).

        Args:
            diffs: names of blobs whose diffs to return besides the inputs'.
            kwargs: output blob name to its diff.

        Returns:
            blob name to diff array: the inputs, or `end`'s bottoms, and `diffs`.
        """
        first = len(self.layers) - 1 if start is None else self._index(start)
        last = 0 if end is None else self._index(end)
        outputs = set(self.inputs if end is None else self.bottom_names[end]) | set(diffs or [])
        if kwargs:
            if set(kwargs) != set(self.outputs):
                raise CaffeError(f"the net's outputs are {', '.join(self.outputs)}; given {', '.join(kwargs)}")
            for name, value in kwargs.items():
                blob = self.blobs[name]
                if len(value) != (blob.shape[0] if blob.shape else 1):
                    raise CaffeError(f"the diff of '{name}' has {len(value)} items, its blob has shape {blob.shape}")
                blob.diff[...] = value
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in outputs}

    def _backward(self, first: int, last: int) -> None:
        for i in range(first, last - 1, -1):
            self._run_callbacks("before_backward", i)
            self._executor.backward(i)
            node = self._executor.nodes[i]
            if self.debug_info and node.need_backward:
                debug_info.log_backward(node, self.blobs, self.params.get(node.name, []))
            self._run_callbacks("after_backward", i)

    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: Any) -> dict[str, np.ndarray]:
        """Forward in batches of the input blob's size, over inputs of any number of items."""
        if not kwargs:
            raise CaffeError(f"forward_all needs the net's inputs: {', '.join(self.inputs) or 'it has none'}")
        collected: dict[str, list[np.ndarray]] = {name: [] for name in set(self.outputs) | set(blobs or [])}
        for batch in self._batches(kwargs):
            for name, value in self.forward(blobs=blobs, **batch).items():
                collected[name].extend(value.copy())
        count = len(next(iter(kwargs.values())))
        return {name: np.asarray(values)[:count] for name, values in collected.items()}

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **kwargs: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Forward and backward in batches; the first result holds blobs, the second diffs."""
        outs: dict[str, list[np.ndarray]] = {name: [] for name in set(self.outputs) | set(blobs or [])}
        downs: dict[str, list[np.ndarray]] = {name: [] for name in set(self.inputs) | set(diffs or [])}
        forward = self._batches({k: v for k, v in kwargs.items() if k in self.inputs})
        backward = self._batches({k: v for k, v in kwargs.items() if k in self.outputs})
        if not kwargs:
            raise CaffeError("forward_backward_all needs the net's inputs or its outputs' diffs")
        nothing: dict[str, Any] = {}
        for given, gradients in zip_longest(forward, backward, fillvalue=nothing):
            for name, value in self.forward(blobs=blobs, **given).items():
                outs[name].extend(value.copy())
            for name, value in self.backward(diffs=diffs, **gradients).items():
                downs[name].extend(value.copy())
        count = len(next(iter(kwargs.values())))
        both = ({name: np.asarray(values)[:count] for name, values in found.items()} for found in (outs, downs))
        first, second = both
        return first, second

    def _batches(self, arrays: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not arrays:
            return
        size = next(iter(self.blobs.values())).num
        whole = {name: np.asarray(value) for name, value in arrays.items()}
        count = len(next(iter(whole.values())))
        for begin in range(0, count, size):
            batch = {name: value[begin : begin + size] for name, value in whole.items()}
            short = size - len(next(iter(batch.values())))
            if short:
                batch = {
                    name: np.concatenate([value, np.zeros((short, *value.shape[1:]), value.dtype)])
                    for name, value in batch.items()
                }
            yield batch

    def reshape(self) -> None:
        """Give every blob the shape that follows from the inputs' shapes, without computing."""
        self._executor.reshape()

    def clear_param_diffs(self) -> None:
        """Set the diffs of all parameters to zero."""
        for blob in self._executor.owned_params:
            blob.diff_tensor.zero_()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Feed a MemoryData first layer: data (N, C, H, W) and labels (N,) or (N, 1, 1, 1), both float32."""
        take = getattr(self._executor.nodes[0].layer, "set_input_arrays", None)
        if take is None:
            raise CaffeError("set_input_arrays may only be called if the first layer is a MemoryData layer")
        take(data, labels)

    # -- parameters --------------------------------------------------------------------------------------

    def copy_from(self, weights: str | Path) -> None:
        """Copy parameters from a .caffemodel or HDF5 file (or several, comma-separated) by layer name."""
        for path in str(weights).split(","):
            self._net.load(path)

    def load_hdf5(self, path: str | Path) -> None:
        """Copy parameters from a file in Caffe's HDF5 layout."""
        self._net.load(path)

    def share_with(self, other: Net) -> None:
        """Use the parameters of another net wherever a layer of that name is there (ShareTrainedLayersWith)."""
        for name, blobs in other.params.items():
            if name not in self.params:
                continue
            mine = self.params[name]
            if [b.shape for b in mine] != [b.shape for b in blobs]:
                raise CaffeError(
                    f"layer '{name}' has parameters of shapes {[b.shape for b in mine]}, "
                    f"the other net's are {[b.shape for b in blobs]}"
                )
            for own, theirs in zip(mine, blobs):
                assert isinstance(own, ParameterBlob) and isinstance(theirs, ParameterBlob)
                own.share_parameter_data(theirs)

    def save(self, path: str | Path) -> None:
        """Write a .caffemodel."""
        weight_files.save_net(
            path, self._net.definition.param, self._net.params, self._net.graph.owners, kind="caffemodel"
        )

    def save_hdf5(self, path: str | Path) -> None:
        """Write the parameters in Caffe's HDF5 layout."""
        weight_files.save_net(path, self._net.definition.param, self._net.params, self._net.graph.owners, kind="hdf5")

    # -- callbacks ---------------------------------------------------------------------------------------

    def _run_callbacks(self, when: str, layer: int) -> None:
        for callback in self._callbacks.get(when, ()):
            callback(layer)

    def before_forward(self, run: Callback) -> None:
        """Call `run(layer index)` before each layer's forward pass."""
        self._callbacks.setdefault("before_forward", []).append(run)

    def after_forward(self, run: Callback) -> None:
        """Call `run(layer index)` after each layer's forward pass."""
        self._callbacks.setdefault("after_forward", []).append(run)

    def before_backward(self, run: Callback) -> None:
        """Call `run(layer index)` before each layer's backward pass."""
        self._callbacks.setdefault("before_backward", []).append(run)

    def after_backward(self, run: Callback) -> None:
        """Call `run(layer index)` after each layer's backward pass."""
        self._callbacks.setdefault("after_backward", []).append(run)


def _constructor_arguments(*args: Any, **kwargs: Any) -> tuple[str, int, Iterable[str], str | None]:
    if len(args) == 2 and isinstance(args[0], (str, Path)) and not kwargs:
        args, kwargs = args[1:], {"weights": args[0]}
    names = ("phase", "level", "stages", "weights")
    for name, value in zip(names, args):
        if name in kwargs:
            raise TypeError(f"Net() got two values for '{name}'")
        kwargs[name] = value
    unknown = sorted(set(kwargs) - set(names))
    if unknown or len(args) > len(names):
        raise TypeError(f"Net() takes {', '.join(names)}; unexpected {', '.join(unknown) or 'arguments'}")
    if "phase" not in kwargs:
        raise TypeError("Net() needs a phase: caffe.TRAIN or caffe.TEST")
    phase = "TRAIN" if int(kwargs["phase"]) == 0 else "TEST"
    weights = kwargs.get("weights")
    return phase, int(kwargs.get("level") or 0), kwargs.get("stages") or (), None if weights is None else str(weights)
