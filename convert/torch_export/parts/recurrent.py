"""Caffe's recurrent layers: time first, a sequence goes on where `cont` is 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def lstm_step(cell, gates, cont):
    """Cell state and hidden state after a step; the gates are i, f, o and g in this order."""
    i, f, o, g = gates.chunk(4, -1)
    cell = f.sigmoid() * cont.unsqueeze(-1) * cell + i.sigmoid() * g.tanh()
    return cell, o.sigmoid() * cell.tanh()


class CaffeRecurrent(nn.Module):
    """Steps over x (steps, num, ...) with cont (steps, num), 0 where a sequence begins.

    Further inputs: a static one (num, ...) that counts at every step; with `exposed` the states to start from,
    (1, num, outputs) each, which are zeros otherwise. With `exposed` the states after the last step are returned too.
    """

    states, gates = 1, 1

    def __init__(self, inputs, outputs, static=None, exposed=False):
        super().__init__()
        self.outputs, self.exposed = outputs, exposed
        rows = self.gates * outputs
        self.input_weight = nn.Parameter(torch.zeros(rows, inputs))
        self.input_bias = nn.Parameter(torch.zeros(rows))
        self.static_weight = None if static is None else nn.Parameter(torch.zeros(rows, static))
        self.hidden_weight = nn.Parameter(torch.zeros(rows, outputs))

    def forward(self, x, cont, *more):
        rest = list(more)
        driven = F.linear(x.flatten(2), self.input_weight, self.input_bias)
        if self.static_weight is not None:
            driven = driven + F.linear(rest.pop(0).flatten(1), self.static_weight)
        zeros = x.new_zeros(x.shape[1], self.outputs)
        states = [state.squeeze(0) for state in rest] if self.exposed else [zeros] * self.states
        outputs = []
        for step in range(x.shape[0]):
            kept = F.linear(states[0] * cont[step].unsqueeze(1), self.hidden_weight)
            states = self.step(kept + driven[step], states, cont[step])
            outputs.append(self.output(states[0]))
        top = torch.stack(outputs)
        return (top, *(state.unsqueeze(0) for state in states)) if self.exposed else top

    def step(self, gates, states, cont):
        """The states after a step, the hidden one first."""
        raise NotImplementedError

    def output(self, hidden):
        return hidden


class CaffeLSTM(CaffeRecurrent):
    """States are hidden and cell."""

    states, gates = 2, 4

    def step(self, gates, states, cont):
        cell, hidden = lstm_step(states[1], gates, cont)
        return [hidden, cell]


class CaffeRNN(CaffeRecurrent):
    """The hidden state is tanh of its gate, the output tanh of a linear layer."""

    def __init__(self, inputs, outputs, static=None, exposed=False):
        super().__init__(inputs, outputs, static, exposed)
        self.output_weight = nn.Parameter(torch.zeros(outputs, outputs))
        self.output_bias = nn.Parameter(torch.zeros(outputs))

    def step(self, gates, states, cont):
        return [gates.tanh()]

    def output(self, hidden):
        return F.linear(hidden, self.output_weight, self.output_bias).tanh()
