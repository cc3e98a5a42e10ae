"""Which layers the programs that read Caffe files have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caffe_bridge import schema
from caffe_bridge.errors import CaffeError

_CAFFE_1 = frozenset(
    "AbsVal ArgMax BNLL BatchNorm BatchReindex Bias Concat Convolution Crop Deconvolution Dropout ELU Eltwise Embed "
    "Exp Filter Flatten Im2col InnerProduct Input LRN LSTM Log MVN PReLU Parameter Pooling Power RNN ReLU Reduction "
    "Reshape SPP Scale Sigmoid Silence Slice Softmax Split TanH Threshold Tile".split()
)
_OPENCV = frozenset(
    "AbsVal BNLL BatchNorm Concat Convolution Crop Deconvolution DetectionOutput Dropout ELU Eltwise Exp Flatten "
    "HardSwish InnerProduct Input Interp LRN Log MVN Mish Normalize PReLU PSROIPooling Permute Pooling Power PriorBox "
    "Proposal ROIPooling ReLU ReLU6 Reorg Reshape Scale ShuffleChannel Sigmoid Silence Slice Softmax Split Swish "
    "TanH".split()
)


@dataclass(frozen=True)
class Dialect:
    """A program that reads Caffe files.

    Attributes:
        name: what it is called here.
        layers: the types it has; None for all that caffe-bridge runs.
        floor: whether its Pooling knows round_mode.
        lrn_k: whether its LRN reads k.
        joins_powers: whether it joins a Power with the one before it even where that raises to a power.
        merges_layers: whether it merges layers with the filter or Eltwise before, whatever axes they are of.
        clips_each: whether its Pooling leaves out a window that begins behind the image along padded axes only, where
            Caffe does along both if one is padded.
        plain_deconvolution: whether its Deconvolution takes images only, and knows no dilation.
    """

    name: str
    layers: frozenset[str] | None
    floor: bool = False
    lrn_k: bool = True
    joins_powers: bool = False
    merges_layers: bool = False
    clips_each: bool = False
    plain_deconvolution: bool = False

    def has(self, *types: str) -> bool:
        """Whether it has layers of all these types."""
        return self.layers is None or self.layers.issuperset(types)

    def expresses(self, param: Any) -> bool:
        """Whether it has a layer's type, and the rounding where it pools."""
        floor = param.pooling_param.round_mode == schema.PoolingParameter.FLOOR
        return self.has(param.type) and (self.floor or not floor)


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("bvlc", _CAFFE_1 | {"Clip", "Swish"}, floor=True),
        Dialect("caffe-1.0", _CAFFE_1),
        Dialect("ssd", _CAFFE_1 | {"DetectionOutput", "Normalize", "Permute", "PriorBox"}),
        Dialect(
            "opencv",
            _OPENCV,
            lrn_k=False,
            joins_powers=True,
            merges_layers=True,
            clips_each=True,
            plain_deconvolution=True,
        ),
        Dialect("caffe-bridge", None, floor=True),
    )
}
"""bvlc is Caffe's master branch, caffe-1.0 its last release, ssd the fork for detection, opencv OpenCV 4's importer."""


def find_dialect(name: str) -> Dialect:
    """A dialect by name. Raises CaffeError for others."""
    if name not in DIALECTS:
        raise CaffeError(f"no dialect is named '{name}'; known are {', '.join(DIALECTS)}")
    return DIALECTS[name]
