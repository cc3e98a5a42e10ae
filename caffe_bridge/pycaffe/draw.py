"""pycaffe's `draw`: a NetParameter as a Graphviz graph, through pydot.

pydot is an optional dependency, and pictures need Graphviz's `dot` program.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from caffe_bridge import schema
from caffe_bridge.errors import CaffeError

LAYER_STYLE_DEFAULT = {"shape": "record", "fillcolor": "#6495ED", "style": "filled"}
NEURON_LAYER_STYLE = {"shape": "record", "fillcolor": "#90EE90", "style": "filled"}
BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}
LAYER_COLORS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
LEARNING_LAYERS = ("Convolution", "Deconvolution", "InnerProduct")


def get_pooling_types_dict() -> dict[int, str]:
    """Pooling method number to its name."""
    return {number: name for name, number in schema.PoolingParameter.PoolMethod.items()}


def get_edge_label(layer: Any) -> str:
    """What the edges to a layer's tops say: its batch size or number of outputs, or nothing."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return '""'


def get_layer_lr_mult(layer: Any) -> tuple[float, float]:
    """The learning rate multipliers of a layer's weights and biases.

    Raises:
        ValueError: the layer is no convolution or inner product, or has more than two multipliers.
    """
    if layer.type not in LEARNING_LAYERS:
        raise ValueError(f"layer '{layer.name}' ({layer.type}) has no learning rate multipliers to show")
    if len(layer.param) > 2:
        raise ValueError(f"layer '{layer.name}' has {len(layer.param)} learning rate multipliers, more than two")
    weights, biases = [*(spec.lr_mult for spec in layer.param), 1.0, 1.0][:2]
    return weights, biases


def get_layer_label(layer: Any, rankdir: str, display_lrm: bool = False) -> str:
    """A layer's quoted label: name, type, window and, if wanted and not both 0, learning rate multipliers.

    The parts stand side by side when the graph runs vertically, below each other otherwise.
    """
    separator = " " if rankdir in ("TB", "BT") else r"\n"
    kind = layer.type
    if kind == "Pooling":
        kind = f"{kind} {get_pooling_types_dict()[layer.pooling_param.pool]}"
    parts = [_escape(layer.name), _escape(f"({kind})")]
    if layer.type == "Pooling":
        pooling = layer.pooling_param
        parts += _window(pooling.kernel_size, pooling.stride, pooling.pad)
    elif layer.type in ("Convolution", "Deconvolution"):
        convolution = layer.convolution_param
        parts += _window(*(next(iter(s), d) for s, d in zip(
            (convolution.kernel_size, convolution.stride, convolution.pad), (1, 1, 0)
        )))  # fmt: skip
    if display_lrm and layer.type in LEARNING_LAYERS:
        multipliers = get_layer_lr_mult(layer)
        if any(multipliers):
            parts.append("lr mult: {:.1f}, {:.1f}".format(*multipliers))
    return f'"{separator.join(parts)}"'


def _window(kernel: int, stride: int, pad: int) -> list[str]:
    return [f"kernel size: {kernel}", f"stride: {stride}", f"pad: {pad}"]


def _escape(name: str) -> str:
    """A name as it may stand in the quoted label of a record."""
    return "".join("\\" + c if c in '"\\{}|<>' else c for c in name)


def choose_color_by_layertype(layertype: str) -> str:
    """The fill colour of a layer."""
    return LAYER_COLORS.get(layertype, LAYER_STYLE_DEFAULT["fillcolor"])


def _in_phase(layer: Any, phase: int | None) -> bool:
    if phase is None:
        return True
    if layer.include and layer.exclude:
        raise ValueError(f"layer '{layer.name}' has both include and exclude rules")
    if any(rule.HasField("phase") and rule.phase == phase for rule in layer.exclude):
        return False
    return not layer.include or any(not rule.HasField("phase") or rule.phase == phase for rule in layer.include)


def get_pydot_graph(
    caffe_net: Any, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Any:
    """A net as a pydot graph.

    Args:
        caffe_net: a NetParameter in today's form.
        rankdir: Graphviz's direction of layout: "LR", "TB", "BT", ...
        label_edges: write batch sizes and numbers of outputs on the edges.
        phase: show the layers of caffe.TRAIN or caffe.TEST only; None for all.
        display_lrm: show learning rate multipliers.

    Raises:
        CaffeError: pydot is not installed.
    """
    pydot = _pydot()
    graph = pydot.Dot(f'"{_escape(caffe_net.name or "Net")}"', graph_type="digraph", rankdir=rankdir)
    blobs: dict[str, Any] = {}

    def blob(name: str) -> Any:
        if name not in blobs:
            blobs[name] = pydot.Node(f'"{_escape(name)}"', **BLOB_STYLE)
            graph.add_node(blobs[name])
        return blobs[name]

    for layer in caffe_net.layer:
        if not _in_phase(layer, phase):
            continue
        style = {**LAYER_STYLE_DEFAULT, "fillcolor": choose_color_by_layertype(layer.type)}
        if len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top):
            style = NEURON_LAYER_STYLE
        node = pydot.Node(get_layer_label(layer, rankdir, display_lrm), **style)
        graph.add_node(node)
        for bottom in layer.bottom:
            graph.add_edge(pydot.Edge(blob(bottom), node, label='""'))
        label = get_edge_label(layer) if label_edges else '""'
        for top in layer.top:
            graph.add_edge(pydot.Edge(node, blob(top), label=label))
    return graph


def _pydot() -> Any:
    try:
        return importlib.import_module("pydot")
    except ImportError as error:
        raise CaffeError("drawing nets needs pydot: pip install 'caffe-bridge[draw]'") from error


def draw_net(
    caffe_net: Any, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """A net as a picture of type `ext`, or as Graphviz text if that is "raw"; see `get_pydot_graph`.

    Raises:
        CaffeError: pydot is not installed, or Graphviz's `dot` is not found.
    """
    graph = get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    if ext == "raw":
        return graph.to_string().encode()
    try:
        return graph.create(format=ext)
    except FileNotFoundError as error:
        raise CaffeError("drawing nets needs Graphviz: install it so that `dot` is on the path") from error


def draw_net_to_file(
    caffe_net: Any, filename: str | Path, rankdir: str = "LR", phase: int | None = None, display_lrm: bool = False
) -> None:
    """Write a net as a picture; the type is the file name's ending, ".raw" for Graphviz text. See `get_pydot_graph`.

    Raises:
        CaffeError: pydot or Graphviz is not there.
    """
    picture = draw_net(caffe_net, rankdir, Path(filename).suffix[1:], phase, display_lrm)
    Path(filename).write_bytes(picture)
