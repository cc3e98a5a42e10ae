"""What the definitions in Caffe's own distribution share: files made of one body, and their usual layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from caffe_bridge import schema
from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

Body = Callable[[NetSpec], str]
"""Adds layers above the blob `data` and returns the name of its last blob."""

DECAYED = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]
"""ParamSpecs of a weight, and of a bias that learns twice as fast without decay."""

PLAIN = [{"lr_mult": 1}, {"lr_mult": 2}]
"""The same where the bias decays too."""

XAVIER = {"type": "xavier"}


def gaussian(std: float) -> dict[str, Any]:
    return {"type": "gaussian", "std": std}


def constant(value: float) -> dict[str, Any]:
    return {"type": "constant", "value": value} if value else {"type": "constant"}


def phase(name: str, *stages: str) -> dict[str, Any]:
    """The `include` of a layer that only nets of this phase, and of all these stages, have."""
    return {"phase": schema.Phase.Value(name)} | ({"stage": list(stages)} if stages else {})


def data(
    tops: Sequence[str], source: str, batch_size: int, include: dict[str, Any], name: str = "", **transform: Any
) -> Any:
    """The layer that reads an LMDB; called after its first top unless named."""
    spec = NetSpec()
    settings: dict[str, Any] = {"source": source, "batch_size": batch_size, "backend": P.Data.LMDB}
    made = L.Data(ntop=len(tops), name=name or tops[0], include=include, transform_param=transform, **settings)
    return _layer(spec, tops, made)


def hdf5_data(tops: Sequence[str], source: str, batch_size: int, include: dict[str, Any]) -> Any:
    """The layer that reads the HDF5 files which the text file `source` lists."""
    made = L.HDF5Data(ntop=len(tops), name="data", include=include, source=source, batch_size=batch_size)
    return _layer(NetSpec(), tops, made)


def _layer(spec: NetSpec, tops: Sequence[str], made: Any) -> Any:
    for top, value in zip(tops, [made] if len(tops) == 1 else made):
        spec[top] = value
    return spec.to_proto().layer[0]


def train_test(name: str, sources: Sequence[Any], body: Callable[[NetSpec], Any]) -> Any:
    """The NetParameter of a net that is trained and tested: one data layer for each phase, all with the same tops."""
    n = NetSpec()
    _layer(n, sources[0].top, L.Data(ntop=len(sources[0].top)))
    body(n)
    return schema.NetParameter(name=name, layer=[*sources, *n.to_proto().layer[1:]])


def deploy(name: str, shape: Sequence[int], body: Callable[[NetSpec], Any]) -> Any:
    """The NetParameter of a net that is fed: the blob `data` is an input, and nothing says how to learn."""
    n = NetSpec()
    n.data = L.Input(shape={"dim": list(shape)})
    body(n)
    message = n.to_proto()
    message.name = name
    for layer in message.layer:
        layer.ClearField("param")
        for field in ("convolution_param", "inner_product_param"):
            if layer.HasField(field):
                getattr(layer, field).ClearField("weight_filler")
                getattr(layer, field).ClearField("bias_filler")
    return message


def conv(
    n: NetSpec,
    name: str,
    bottom: str,
    num_output: int,
    kernel_size: int,
    weights: dict[str, Any],
    bias: float = 0,
    param: Sequence[dict[str, Any]] = DECAYED,
    **settings: Any,
) -> str:
    """A convolution; `settings` are pad, stride and group."""
    n[name] = L.Convolution(
        n[bottom],
        num_output=num_output,
        kernel_size=kernel_size,
        weight_filler=weights,
        bias_filler=constant(bias),
        **({"param": list(param)} if param else {}),
        **settings,
    )
    return name


def fc(
    n: NetSpec,
    name: str,
    bottom: str,
    num_output: int,
    weights: dict[str, Any],
    bias: float = 0,
    param: Sequence[dict[str, Any]] = DECAYED,
    **settings: Any,
) -> str:
    """A fully connected layer."""
    n[name] = L.InnerProduct(
        n[bottom],
        num_output=num_output,
        weight_filler=weights,
        bias_filler=constant(bias),
        param=list(param),
        **settings,
    )
    return name


def pool(n: NetSpec, name: str, bottom: str, method: str = "MAX", kernel_size: int = 3, **settings: int) -> str:
    settings = {"stride": 2} | settings
    n[name] = L.Pooling(n[bottom], pool=P.Pooling.PoolMethod.Value(method), kernel_size=kernel_size, **settings)
    return name


def dropout(n: NetSpec, name: str, blob: str, ratio: float) -> None:
    n[name] = L.Dropout(n[blob], in_place=True, dropout_ratio=ratio)


def score(n: NetSpec, scores: str) -> None:
    """Accuracy, in tests alone, and the loss of scores for the blob `label`."""
    n.accuracy = L.Accuracy(n[scores], n.label, include=phase("TEST"))
    n.loss = L.SoftmaxWithLoss(n[scores], n.label)


def trained(body: Body) -> Callable[[NetSpec], None]:
    """A body with accuracy and loss above it."""
    return lambda n: score(n, body(n))


def probabilities(body: Body) -> Callable[[NetSpec], None]:
    """A body with a softmax above it."""

    def above(n: NetSpec) -> None:
        n.prob = L.Softmax(n[body(n)])

    return above
