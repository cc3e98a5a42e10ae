"""The structure of a network: its layers with weights, and what is done to values between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Size = tuple[int, int]


@dataclass(frozen=True)
class Pool:
    """A pooling between two steps; a kernel of None is the whole image.

    `same_rounded` says whether rounding the number of windows down gives as many, at the size the net was made for.
    """

    kind: str
    kernel: Size | None = None
    stride: Size = (1, 1)
    pad: Size = (0, 0)
    ceil: bool = False
    same_rounded: bool = False

    def differs(self, other: Pool) -> bool:
        """Whether it pools other windows than another."""
        if (self.kind, self.kernel) != (other.kind, other.kernel):
            return True
        if self.kernel is None:
            return False
        rounded = self.ceil != other.ceil and not (self.same_rounded or other.same_rounded)
        return rounded or (self.stride, self.pad) != (other.stride, other.pad)

    def __str__(self) -> str:
        if self.kernel is None:
            return f"{self.kind} pooling of the whole image"
        size, rounding = "x".join(map(str, self.kernel)), "up" if self.ceil else "down"
        return f"{self.kind} pooling {size}, stride {self.stride[0]}, pad {self.pad[0]}, rounding {rounding}"


@dataclass(eq=False)
class Step:
    """A layer with weights, a sum, a concatenation, or the input.

    Attributes:
        kind: "input", "filter" (a convolution or fully connected layer), "norm", "add", "concat", or another type.
        key: the module's name in the state dict, or the Caffe layer's.
        shape: of a filter's weight; of a norm (channels,). None in front stands for any number of classes.
        options: stride, pad, dilation, groups and bias of a filter, eps of a norm.
        inputs: what it reads.
        blobs: a Caffe layer's weights by the names they have in torch.
    """

    kind: str
    key: str = ""
    shape: tuple[int | None, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    inputs: list[Edge] = field(default_factory=list)
    blobs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """The values of a step, and what is done to them: poolings, and names of functions."""

    source: Step
    passed: tuple[Pool | str, ...] = ()

    def through(self, what: Pool | str) -> Edge:
        """The same after one more function."""
        return Edge(self.source, (*self.passed, what))


class Sketch:
    """A network of torchvision in the making; `steps` are in the order of its state dict."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.input = Edge(Step("input"))
        self.output = self.input

    def _add(self, step: Step) -> Edge:
        self.steps.append(step)
        return Edge(step)

    def conv(
        self,
        x: Edge,
        key: str,
        inputs: int,
        outputs: int | None,
        kernel: int,
        *,
        stride: int = 1,
        pad: int = 0,
        **more: Any,
    ) -> Edge:
        """A Conv2d; `more` is groups (1) and bias (True)."""
        groups = more.get("groups", 1)
        options = {"stride": (stride, stride), "pad": (pad, pad), "dilation": (1, 1), "groups": groups}
        shape = (outputs, inputs // groups, kernel, kernel)
        return self._add(Step("filter", key, shape, {**options, "bias": more.get("bias", True)}, [x]))

    def linear(self, x: Edge, key: str, inputs: int, outputs: int | None) -> Edge:
        """A Linear layer."""
        return self._add(Step("filter", key, (outputs, inputs), {"groups": 1, "bias": True}, [x]))

    def norm(self, x: Edge, key: str, channels: int, eps: float = 1e-5) -> Edge:
        """A BatchNorm2d."""
        return self._add(Step("norm", key, (channels,), {"eps": eps}, [x]))

    def add(self, *inputs: Edge) -> Edge:
        """A sum."""
        return Edge(Step("add", inputs=list(inputs)))

    def concat(self, *inputs: Edge) -> Edge:
        """A concatenation of channels."""
        return Edge(Step("concat", inputs=list(inputs)))


def relu(x: Edge) -> Edge:
    """After a ReLU."""
    return x.through("ReLU")


def max_pool(x: Edge, kernel: int, stride: int, pad: int = 0, ceil: bool = False) -> Edge:
    """After a MaxPool2d."""
    return x.through(Pool("max", (kernel, kernel), (stride, stride), (pad, pad), ceil))


def average(x: Edge) -> Edge:
    """After an AdaptiveAvgPool2d of the whole image."""
    return x.through(Pool("average"))
