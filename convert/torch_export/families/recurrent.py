"""RNN, LSTM and LSTMUnit."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import ModuleSource, blob, call


@writes("RNN", "LSTM")
def recurrent(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """A loop over the time steps; states that are not exposed begin as zeros at each run."""
    layer, blobs = node.layer, node.layer.blobs
    static = blobs[2].shape[1] if layer.static else None
    names = ["input_weight", "input_bias", *["static_weight"] * layer.static, "hidden_weight"]
    names += ["output_weight", "output_bias"] if node.type == "RNN" else []
    made = call(
        code.part(f"Caffe{node.type}"), layer.inputs, layer.outputs, static=static, exposed=layer.exposed or None
    )
    return code.module(made, *bottoms, **{name: blob(node, i) for i, name in enumerate(names)})


@writes("LSTMUnit")
def lstm_unit(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """One step; tops cell state and hidden state."""
    return f"{code.part('lstm_step')}({', '.join(bottoms)})"
