"""What every converter reads into and writes from: a net's definition and its blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caffe_bridge import schema
from caffe_bridge.errors import WeightsError

Blobs = list[Any]  # NumPy arrays and tensors; None for a shared blob that the file leaves to its owner


@dataclass
class Model:
    """A net on its way from one format to another.

    Attributes:
        path: where it came from, for errors.
        layers: layer name to its blobs, in net order.
        definition: the NetParameter without blobs, or None where the format stores none.
    """

    path: str
    layers: dict[str, Blobs] = field(default_factory=dict)
    definition: Any = None

    def defined(self) -> Any:
        """The definition; where there is none, one that only names the layers."""
        if self.definition is not None:
            return self.definition
        net = schema.NetParameter()
        for name in self.layers:
            net.layer.add(name=name)
        return net

    def sharing(self) -> dict[str, list[tuple[str, int]]]:
        """(layer, index) of the parameter that each blob shares by the names in the definition, itself if none."""
        owners: dict[str, list[tuple[str, int]]] = {}
        first: dict[str, tuple[str, int]] = {}
        for layer in self.defined().layer:
            names = [spec.name for spec in layer.param]
            count = max(len(names), len(self.layers.get(layer.name, ())))
            names += [""] * (count - len(names))
            places = [(layer.name, i) for i in range(count)]
            owners[layer.name] = [first.setdefault(n, place) if n else place for n, place in zip(names, places)]
        return owners

    def completed(self) -> dict[str, Blobs]:
        """The layers of the definition, in its order, with their blobs, shared ones included.

        Raises WeightsError when the file leaves out a blob and the definition does not say with which it is shared.
        """
        owners = self.sharing()
        return {layer.name: self._complete(layer.name, owners[layer.name]) for layer in self.defined().layer}

    def _complete(self, layer: str, owners: Sequence[tuple[str, int]]) -> Blobs:
        blobs = list(self.layers.get(layer, ()))
        for i, (owner, j) in enumerate(owners):
            if i < len(blobs) and blobs[i] is not None:
                continue
            shared = self.layers.get(owner, ())
            if (owner, j) == (layer, i) or j >= len(shared) or shared[j] is None:
                if i >= len(blobs):
                    break
                raise WeightsError(
                    f"{self.path}: layer '{layer}' has no blob {i}, which it shares with another layer; "
                    "give the net's prototxt (--model) to say which"
                )
            blobs[i:] = [shared[j], *blobs[i + 1 :]]
        return blobs

    def left_out(self) -> list[str]:
        """Layers with blobs that the definition does not have."""
        names = {layer.name for layer in self.defined().layer}
        return [name for name, blobs in self.layers.items() if blobs and name not in names]


def count_blobs(layers: Mapping[str, Blobs]) -> int:
    """How many blobs there are."""
    return sum(len(blobs) for blobs in layers.values())
