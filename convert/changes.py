"""Everything that is to be changed on a model's way from one format to another, and what its outputs are then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from caffe_bridge.convert import surgery
from caffe_bridge.convert.model import Model


@dataclass(frozen=True)
class Changes:
    """Changes to a model, made in the order they stand here.

    Attributes:
        classes: another number of classes.
        outputs, starts: the blobs to cut at.
        prune, fold, fc_to_conv: whether to prune, to merge batch norm, to cast fully connected layers.
        mean, scale: preprocessing the net is to do, in the channel order it has.
        rgb: whether the net is to take its channels in reverse.
        half: whether weights are rounded to half precision.
        names: other names of layers and blobs.
    """

    classes: int | None = None
    outputs: Sequence[str] = ()
    starts: Sequence[str] = ()
    prune: bool = False
    fold: bool = False
    fc_to_conv: bool = False
    mean: np.ndarray | None = None
    scale: Sequence[float] | None = None
    rgb: bool = False
    half: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    def any(self) -> bool:
        """Whether there is something to change."""
        return self.mean is not None or replace(self, mean=None) != Changes()

    def apply(self, model: Model) -> tuple[Model, list[str]]:
        """The changed model, and what there is to tell about it, a line each."""
        notes = []
        if self.classes is not None:
            model, anew = surgery.change_classes(model, self.classes)
            notes.append(f"weights drawn anew by their fillers: {', '.join(anew) or 'none'}")
        if self.outputs or self.starts:
            model = surgery.cut(model, self.outputs, self.starts)
        if self.prune:
            model = surgery.prune(model)
        if self.fold:
            model, stays = surgery.fold_batch_norm(model)
            notes += [f"not merged: layer '{name}': {reason}" for name, reason in stays.items()]
        if self.fc_to_conv:
            model = surgery.cast_to_convolution(model)
        if self.mean is not None or self.scale is not None:
            model = surgery.include_preprocessing(model, self.mean, 1.0 if self.scale is None else self.scale)
        if self.rgb:
            model = surgery.swap_channels(model)
        if self.half:
            model = surgery.half_weights(model)
        if self.names:
            model = surgery.rename(model, self.names)
        return model, notes

    def parts(self) -> tuple[Changes, Changes]:
        """The change of classes, after which outputs are others, and the rest, after which they can be compared."""
        return Changes(classes=self.classes), replace(self, classes=None)

    def new_name(self, blob: str) -> str:
        """What a blob is called afterwards."""
        return self.names.get(blob, blob)

    def old_names(self, outputs: Sequence[str], present: Sequence[str]) -> dict[str, str]:
        """New output to the blob it was; `present` are the old blobs."""
        back = {new: old for old, new in self.names.items()}
        old = {output: back.get(output, output) for output in outputs}
        # `cut` adds NAME_output where an output is read on the way to another one.
        return {new: name if name in present else name.rpartition("_output")[0] for new, name in old.items()}

    def new_input(self, array: np.ndarray) -> np.ndarray:
        """What the changed net takes where the old one took `array`, an image if it has four axes."""
        if array.ndim != 4:
            return array
        if self.scale is not None:
            array = array / np.asarray(self.scale, array.dtype).reshape(-1, 1, 1)
        if self.mean is not None:
            mean = self.mean if self.mean.ndim == 3 else self.mean.reshape(-1, 1, 1)
            array = array + mean.astype(array.dtype)
        return array[:, ::-1].copy() if self.rgb else array
