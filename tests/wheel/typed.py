"""What a user's type checker must accept, and infer, of the installed package; check.sh runs mypy --strict on it."""

import torch
from typing_extensions import assert_type

import caffe_bridge


def outputs(definition: str, image: torch.Tensor) -> dict[str, torch.Tensor]:
    net = caffe_bridge.Net(definition, phase="TEST")
    assert_type(net(data=image), dict[str, torch.Tensor])
    return net(data=image)


def read(definition: str) -> caffe_bridge.Net | None:
    try:
        return caffe_bridge.Net(definition, phase="TEST")
    except caffe_bridge.PrototxtError as error:
        assert_type(error.line, int | None)
        return None
