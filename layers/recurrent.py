"""RNN and LSTM, unrolled over the time steps of a batch."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.layers.lstm_unit import lstm_step
from caffe_bridge.registry import register

States = tuple[torch.Tensor, ...]


class _Recurrent(Layer):
    """What RNN and LSTM share: inputs, the state between passes, and the walk over the time steps.

    Bottoms: x (steps, num, ...); cont (steps, num), 0 where a sequence begins; optionally a static input (num, ...)
    that counts at every step; with `expose_hidden` the states (1, num, num_output) to start from. Tops: the outputs
    (steps, num, num_output); with `expose_hidden` the states after the last step. The number of steps is fixed at
    set-up.

    Without `expose_hidden` the states after a pass are where the next one starts, unless its cont is 0; they begin as
    zeros, and no gradient crosses passes. Exposed states neither get nor pass a gradient, as in Caffe.

    Attributes:
        states: how many tensors make up the state: hidden alone, or hidden and cell.
        gates: rows of the input's weights for each output.
        state: (states, num, num_output) after the last pass, for the largest num so far.
    """

    bottoms = (2, None)
    tops = (1, None)
    no_gradient = (1,)
    states: ClassVar[int]
    gates: ClassVar[int]
    state: torch.Tensor

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.recurrent_param
        self.outputs, self.exposed = param.num_output, param.expose_hidden
        if not self.outputs:
            raise LayerError("num_output must be given and above 0")
        exposed = self.states if self.exposed else 0
        self._check_count("bottom", len(bottom_shapes), (2 + exposed, 3 + exposed))
        self._check_count("top", len(self.param.top), (1 + exposed, 1 + exposed))
        self.static = len(bottom_shapes) == 3 + exposed
        self.constants = range(len(bottom_shapes) - exposed, len(bottom_shapes))
        x = bottom_shapes[0]
        canonical_axis(2, len(x))
        self.steps, self.inputs = x[0], math.prod(x[2:])
        if not self.steps:
            raise LayerError(f"needs at least one time step, x has shape {x}")
        self.add_blob((self.gates * self.outputs, self.inputs), param.weight_filler)
        self.add_blob((self.gates * self.outputs,), param.bias_filler)
        if self.static:
            static = bottom_shapes[2]
            canonical_axis(1, len(static))
            self.add_blob((self.gates * self.outputs, math.prod(static[1:])), param.weight_filler)
        self.add_blob((self.gates * self.outputs, self.outputs), param.weight_filler)
        self.register_buffer("state", torch.zeros(self.states, x[1], self.outputs), persistent=False)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        x, cont, *rest = bottom_shapes
        if len(x) < 3 or x[0] != self.steps or math.prod(x[2:]) != self.inputs:
            raise LayerError(f"x must have {self.steps} steps of {self.inputs} values per stream, not shape {x}")
        if cont != x[:2]:
            raise LayerError(f"cont must have shape {x[:2]}, one value per step and stream, not {cont}")
        if self.static:
            static = rest.pop(0)
            if static[:1] != x[1:2] or math.prod(static[1:]) != self.blobs[2].shape[1]:
                raise LayerError(
                    f"the static input must be {self.blobs[2].shape[1]} values for each of {x[1]} streams, "
                    f"not of shape {static}"
                )
        state = (1, x[1], self.outputs)
        for given in rest:
            if given != state:
                raise LayerError(f"an exposed state must have shape {state}, not {given}")
        return [(*x[:2], self.outputs), *[state] * (len(self.param.top) - 1)]

    def reset(self) -> None:
        """Forget the states: the next pass starts from zeros."""
        self.state.zero_()

    def _recall(self, num: int) -> States:
        """The states to start from, (num, num_output) each; streams never seen before start at 0."""
        if num > self.state.shape[1]:
            self.state = self.state.new_zeros(self.states, num, self.outputs)
        return self.state[:, :num].clone().unbind()

    def forward(
        self, x: torch.Tensor, cont: torch.Tensor, *rest: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        driven = F.linear(x.flatten(2), self.blobs[0], self.blobs[1])
        if self.static:
            driven = driven + F.linear(rest[0].flatten(1), self.blobs[2])
        num = x.shape[1]
        states: States = (
            tuple(b.detach().squeeze(0) for b in rest[self.static :]) if self.exposed else self._recall(num)
        )
        outputs = []
        for step in range(self.steps):
            states = self._step(driven[step], states, cont[step].detach())
            outputs.append(self._output(states[0]))
        last = [state.detach() for state in states]
        top = torch.stack(outputs)
        if self.exposed:
            return (top, *(state.unsqueeze(0) for state in last))
        with torch.no_grad():
            self.state[:, :num].copy_(torch.stack(last))
        return top

    def _step(self, driven: torch.Tensor, states: States, cont: torch.Tensor) -> States:
        """The states after a step, the hidden one first; `driven` is what the inputs add to the gates."""
        raise NotImplementedError

    def _output(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


@register("RNN")
class RNN(_Recurrent):
    """h' = tanh(W_hh cont h + W_xh x + b_h), the output o = tanh(W_ho h' + b_o).

    Blobs: W_xh (num_output, inputs), b_h, W_xh_static (num_output, static inputs) with a static input,
    W_hh (num_output, num_output), W_ho (num_output, num_output), b_o.
    """

    states = 1
    gates = 1

    def setup(self, bottom_shapes: list[Shape]) -> None:
        super().setup(bottom_shapes)
        param = self.param.recurrent_param
        self.add_blob((self.outputs, self.outputs), param.weight_filler)
        self.add_blob((self.outputs,), param.bias_filler)

    def _step(self, driven: torch.Tensor, states: States, cont: torch.Tensor) -> States:
        (hidden,) = states
        return (torch.tanh(F.linear(hidden * cont.unsqueeze(1), self.blobs[-3]) + driven),)

    def _output(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tanh(F.linear(hidden, self.blobs[-2], self.blobs[-1]))


@register("LSTM")
class LSTM(_Recurrent):
    """LSTMUnit at every step, its gate inputs being W_hc cont h + W_xc x + b_c (Donahue et al., 2014).

    Blobs: W_xc (4 num_output, inputs), b_c, W_xc_static (4 num_output, static inputs) with a static input,
    W_hc (4 num_output, num_output); rows in the order of the gates i, f, o, g. Exposed states: hidden, then cell.
    """

    states = 2
    gates = 4

    def _step(self, driven: torch.Tensor, states: States, cont: torch.Tensor) -> States:
        hidden, cell = states
        gates = F.linear(hidden * cont.unsqueeze(1), self.blobs[-1]) + driven
        cell, hidden = lstm_step(cell, gates, cont)
        return hidden, cell
