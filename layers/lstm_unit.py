"""LSTMUnit, one time step of an LSTM."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


class _LSTMUnit(torch.autograd.Function):
    """One step with Caffe's gradient: the forget gate f, which includes cont, has the slope f (1 - f)."""

    @staticmethod
    def forward(
        ctx: Any, cell: torch.Tensor, gates: torch.Tensor, cont: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, o, g = gates.chunk(4, -1)
        i, f, o, g = i.sigmoid(), f.sigmoid() * cont.unsqueeze(-1), o.sigmoid(), g.tanh()
        new_cell = f * cell + i * g
        squashed = new_cell.tanh()
        ctx.save_for_backward(cell, i, f, o, g, squashed)
        return new_cell, o * squashed

    @staticmethod
    def backward(
        ctx: Any, cell_grad: torch.Tensor, hidden_grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        cell, i, f, o, g, squashed = ctx.saved_tensors
        into_cell = cell_grad + hidden_grad * o * (1 - squashed * squashed)
        gates = (
            into_cell * g * i * (1 - i),
            into_cell * cell * f * (1 - f),
            hidden_grad * squashed * o * (1 - o),
            into_cell * i * (1 - g * g),
        )
        return into_cell * f, torch.cat(gates, -1), None


def lstm_step(cell: torch.Tensor, gates: torch.Tensor, cont: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of an LSTM: cell' = cont sigmoid(f) cell + sigmoid(i) tanh(g), hidden' = sigmoid(o) tanh(cell').

    Args:
        cell: Tensor[..., hidden], the cell state before the step.
        gates: Tensor[..., 4 * hidden], the inputs of the gates i, f, o and of the candidate g, in this order.
        cont: Tensor[...], 0 where a sequence begins, 1 where it goes on.

    Returns:
        the cell state and the hidden state after the step, Tensor[..., hidden] each.
    """
    return _LSTMUnit.apply(cell, gates, cont)


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One time step of an LSTM, the gates' inputs being computed already.

    Bottoms: cell state (1, num, hidden); gate inputs i, f, o, g (1, num, 4 * hidden); cont (1, num), 0 where a
    sequence begins. Tops: cell state and hidden state (1, num, hidden) after the step. Caffe's gradient of the forget
    gate is the derivative where cont is 0 or 1.
    """

    bottoms = (3, 3)
    tops = (2, 2)
    no_gradient = (2,)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        cell, gates, cont = bottom_shapes
        if len(cell) != 3 or cell[0] != 1 or gates != (1, cell[1], 4 * cell[2]) or cont != (1, cell[1]):
            raise LayerError(
                f"needs shapes (1, num, hidden), (1, num, 4 * hidden) and (1, num), not {cell}, {gates} and {cont}"
            )
        return [cell, cell]

    def forward(self, cell: torch.Tensor, gates: torch.Tensor, cont: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return lstm_step(cell, gates, cont)
