"""Filter."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("Filter")
class Filter(Layer):
    """The items of every bottom but the last for which the last, the selector, is not 0.

    Bottoms: (num, ...) each, and the selector (num,) or (num, 1, ...). Tops: as many as there are bottoms to filter,
    with as many items as are selected, in their order; none is allowed. The items left out get a gradient of 0.
    """

    bottoms = (2, None)
    tops = (1, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        filtered = len(bottom_shapes) - 1
        if len(self.param.top) != filtered:
            raise LayerError(f"needs a top for each bottom but the selector: {filtered}, not {len(self.param.top)}")
        self.no_gradient = (filtered,)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        *filtered, selector = bottom_shapes
        if not selector or any(size != 1 for size in selector[1:]):
            raise LayerError(f"the selector must hold one value per item, not have shape {selector}")
        for shape in filtered:
            if shape[:1] != selector[:1]:
                raise LayerError(f"a bottom of shape {shape} does not fit a selector of {selector[0]} items")
        return filtered

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        *filtered, selector = bottoms
        index = selector.detach().flatten().nonzero().squeeze(1)
        tops = tuple(bottom.index_select(0, index) for bottom in filtered)
        return tops if len(tops) > 1 else tops[0]
