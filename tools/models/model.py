"""What the definitions are sized by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec


@dataclass(frozen=True)
class Model:
    """One network in one phase. The defaults are the published sizes.

    Attributes:
        name: the NetParameter's name.
        trunk: adds the convolutions above the blob `data` and returns the name of their last blob.
        train: the training network, with data layer, targets and losses; otherwise the test network, with inputs.
        classes: number of classes, background included.
        stride: image pixels per feature cell, along each axis.
        anchor_scales: anchor sizes as multiples of 16 pixels.
        anchor_ratios: height over width of the anchors.
        rpn_channels: channels of the region proposal network's hidden layer.
        hidden: width of fc6 and fc7, and of their twins in the mask branch.
        mask_hidden: width of the layer below the mask prediction.
        from_scratch: give the layers that published models take from an ImageNet network a filler.
        fixed_trunk: leave the trunk as it is while training.
    """

    name: str
    trunk: Callable[[NetSpec, Model], str]
    train: bool = True
    classes: int = 21
    stride: int = 16
    anchor_scales: tuple[float, ...] = (8, 16, 32)
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    rpn_channels: int = 512
    hidden: int = 4096
    mask_hidden: int = 256
    from_scratch: bool = False
    fixed_trunk: bool = False

    @property
    def anchors(self) -> int:
        """Anchors per feature cell."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    def anchor_settings(self) -> dict[str, Any]:
        """The `param_str` entries of the layers that make anchors; scales and ratios only where they are not MNC's."""
        settings: dict[str, Any] = {"feat_stride": self.stride}
        if self.anchor_scales != Model.anchor_scales:
            settings["scales"] = list(self.anchor_scales)
        if self.anchor_ratios != Model.anchor_ratios:
            settings["ratios"] = list(self.anchor_ratios)
        return settings
