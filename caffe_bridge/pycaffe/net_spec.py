"""pycaffe's `net_spec`: nets written as Python expressions.

`layers.Convolution(bottom, kernel_size=3)` makes a layer and returns its top; `params.Pooling.MAX` is an enum value.
A `NetSpec` names what is assigned to it and turns it, with everything it needs, into a NetParameter:

    n = NetSpec()
    n.data = layers.Input(shape=dict(dim=[1, 3, 224, 224]))
    n.conv1 = layers.Convolution(n.data, num_output=64, kernel_size=3, pad=1)
    n.relu1 = layers.ReLU(n.conv1, in_place=True)
    n.to_proto()

A layer is named after its first top, unless it is given `name=`. Blobs that were not named are called after the
layer's type and a running number, from 1.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from caffe_bridge import schema


def param_name_dict() -> dict[str, str]:
    """The layer types with a parameter message, and its field without the ending: `{"InnerProduct": "inner_product"}`.

    A few entries (`Transformation`, `Loss`) are messages that several types share.
    """
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in schema.LayerParameter.DESCRIPTOR.fields
        if field.name.endswith("_param") and field.message_type is not None
    }


@functools.cache
def _param_names() -> dict[str, str]:
    return param_name_dict()


def _parameter_message(layer: Any, type_name: str) -> Any:
    """The type's own parameter message in a LayerParameter, None where it has none."""
    name = _param_names().get(type_name)
    return None if name is None else getattr(layer, f"{name}_param")


def to_proto(*tops: Top) -> Any:
    """A NetParameter of the layers that make these tops, bottoms first, all names generated."""
    return _net(tops, {})


def assign_proto(proto: Any, name: str, val: Any) -> None:
    """Set a field of a message from plain Python: dicts fill messages, lists repeated fields.

    A single value for a repeated field counts as a list of one.

    Raises:
        AttributeError: the message has no field of this name.
    """
    field = proto.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise AttributeError(f"{proto.DESCRIPTOR.name} has no field '{name}'")
    target = getattr(proto, name)
    if hasattr(target, "extend"):
        for item in val if isinstance(val, (list, tuple)) else [val]:
            if isinstance(item, dict):
                _assign_all(target.add(), item)
            else:
                target.append(item)
    elif isinstance(val, dict):
        _assign_all(target, val)
    else:
        setattr(proto, name, val)


def _assign_all(proto: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        assign_proto(proto, name, value)


class Top:
    """One output blob: the `n`-th of the layer `fn`."""

    def __init__(self, fn: Function, n: int):
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """A NetParameter of the layers that make this top."""
        return to_proto(self)


class Function:
    """One layer: its type, its bottoms (Tops of other layers) and its parameters.

    Two parameters are not fields: `ntop`, the number of tops (1 if absent), and `in_place`, which makes the tops
    the bottoms. A parameter that the type's own message has goes there; others are fields of LayerParameter.

    Raises:
        TypeError: a bottom is not a Top.
    """

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict[str, Any]):
        for index, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(bottom)})")
        self.type_name = type_name
        self.inputs = inputs
        self.params = params
        self.ntop = params.pop("ntop", 1)
        self.in_place = params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def _to_layer(self, bottoms: list[str], tops: list[str], name: str) -> Any:
        layer = schema.LayerParameter(type=self.type_name, name=name, bottom=bottoms, top=tops)
        own = _parameter_message(layer, self.type_name)
        for key, value in self.params.items():
            # "param" and "xxx_param" are LayerParameter's even where the type's message has a field of that name.
            mine = own is not None and key in own.DESCRIPTOR.fields_by_name and not key.endswith("param")
            assign_proto(own if mine else layer, key, value)
        return layer


class _MissingTop(AttributeError, KeyError):
    """Both, because pycaffe raises KeyError and Python's own protocols (hasattr, copy) expect AttributeError."""

    __str__ = Exception.__str__


class NetSpec:
    """Tops by name. Assigning one, as an attribute or an item, names its blob; `tops` holds them in order."""

    tops: dict[str, Top | Function]

    def __init__(self) -> None:
        object.__setattr__(self, "tops", {})

    def __setattr__(self, name: str, value: Top | Function) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["tops"][name]
        except KeyError:
            raise _MissingTop(f"the NetSpec has no top named '{name}'") from None

    def __setitem__(self, key: str, value: Top | Function) -> None:
        self.tops[key] = value

    def __getitem__(self, item: str) -> Any:
        return self.__getattr__(item)

    def to_proto(self) -> Any:
        """A NetParameter of all assigned tops and what they need, in the order of assignment."""
        return _net(self.tops.values(), {top: name for name, top in self.tops.items()})


class Layers:
    """A pseudo-module: `Layers().Convolution` is a function that makes a convolution.

    The function returns the layer's top, a tuple of them when `ntop` is above 1, or the Function when it is 0.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def layer_fn(*args: Top, **kwargs: Any) -> Any:
            fn = Function(name, args, kwargs)
            if fn.ntop == 0:
                return fn
            return fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer_fn


class Parameters:
    """A pseudo-module of the enum values in parameter messages: `Parameters().Pooling.MAX`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(schema, f"{name}Parameter")


def _net(roots: Iterable[Top | Function], names: dict[Top | Function, str]) -> Any:
    """The NetParameter of everything `roots` need; `names` holds the given names and collects the generated ones."""
    counts: Counter[str] = Counter()
    layers: dict[Function, Any] = {}

    def name_of(item: Top | Function, type_name: str) -> str:
        if item not in names:
            counts[type_name] += 1
            names[item] = f"{type_name}{counts[type_name]}"
        return names[item]

    for fn in _bottoms_first(roots):
        bottoms = [layers[bottom.fn].top[bottom.n] for bottom in fn.inputs]
        tops = bottoms if fn.in_place else [name_of(top, fn.type_name) for top in fn.tops]
        name = name_of(fn.tops[0] if fn.tops else fn, fn.type_name)
        layers[fn] = fn._to_layer(bottoms, tops, name)
    return schema.NetParameter(layer=layers.values())


def _bottoms_first(roots: Iterable[Top | Function]) -> Iterator[Function]:
    """Each layer once, after the layers of its bottoms; iterative, because deep nets exceed the recursion limit."""
    done: set[Function] = set()
    for root in roots:
        stack = [(root if isinstance(root, Function) else root.fn, False)]
        while stack:
            fn, ready = stack.pop()
            if fn in done:
                continue
            if ready:
                done.add(fn)
                yield fn
            else:
                stack.append((fn, True))
                stack.extend((bottom.fn, False) for bottom in reversed(fn.inputs) if bottom.fn not in done)


layers = Layers()
params = Parameters()
