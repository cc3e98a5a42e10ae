"""What a user's type checker must accept, and infer, of the installed package; check.sh runs mypy --strict on it."""

import torch
from typing_extensions import assert_type

import caffe_bridge


def outputs(definition: str, image: torch.Tensor) -> dict[str, torch.Tensor]:
    net = caffe_bridge.Net(definition, phase="TEST")
    assert_type(net, caffe_bridge.Net)
    assert_type(net.forward(data=image), dict[str, torch.Tensor])
    out: dict[str, torch.Tensor] = net(data=image, blobs=["conv"])
    return out


def line_of_error(definition: str) -> int | None:
    try:
        caffe_bridge.Net(definition, phase="TEST")
    except caffe_bridge.PrototxtError as error:
        assert_type(error.line, int | None)
        return error.line
    return None


@caffe_bridge.register("MyScale")
class MyScale(caffe_bridge.Layer):
    def setup(self, bottom_shapes: list[tuple[int, ...]]) -> None:
        self.add_blob((1,))

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor:
        return bottoms[0] * self.blobs[0]
