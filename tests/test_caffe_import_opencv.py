"""The dialect `opencv` through OpenCV 4's own importer, where that joins layers or reads fields in ways of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from caffe_bridge import text_format
from caffe_bridge.convert import caffe_files
from caffe_bridge.convert.caffe_import import import_program
from caffe_bridge.convert.onnx_export.verification import difference

cv2 = pytest.importorskip("cv2")
pytestmark = [
    pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromCaffe"), reason="this OpenCV reads no Caffe files"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def check(module: nn.Module, x: torch.Tensor, folder) -> None:
    """OpenCV gives the module's numbers."""
    module.eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.3, 1.5)
    program = torch.export.export(module, (x,), strict=False)
    model = import_program(program, dialect="opencv")
    prototxt, weights = str(folder / "a.prototxt"), str(folder / "a.caffemodel")
    (folder / "a.prototxt").write_text(text_format.format(model.definition))
    caffe_files.write_caffemodel(weights, model)
    net = cv2.dnn.readNetFromCaffe(prototxt, weights)
    net.setInput(x.numpy())
    want = module(x).detach().numpy()
    got = np.asarray(net.forward())
    assert difference(got.reshape(want.shape), want) <= 1e-4


class Rest(nn.Module):
    """x plus the layers' result, which an Eltwise computes, then one more layer."""

    def __init__(self, inner: nn.Module, last: nn.Module):
        super().__init__()
        self.inner, self.last = inner, last

    def forward(self, x):
        return self.last(x + self.inner(x))


class Scaled(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return x * self.factor


class LocalNorm(nn.Module):
    def forward(self, x):
        return F.local_response_norm(x, 3, alpha=1, beta=0.5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(6)), (1, 6, 5)),
        (nn.Sequential(nn.Linear(5, 7), nn.PReLU(6)), (1, 6, 5)),
        (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm2d(3)), (1, 3, 6, 5)),
        (nn.Sequential(nn.Conv2d(3, 8, 3), Scaled((5,))), (1, 3, 6, 7)),
        (Rest(nn.Tanh(), nn.BatchNorm1d(6)), (2, 6)),
        (Rest(nn.Tanh(), nn.PReLU(6)), (2, 6, 5)),
        (nn.ConvTranspose2d(2, 3, 3, 2, 1, dilation=2), (1, 2, 5, 4)),
        (nn.ConvTranspose1d(2, 4, 3, 2, 1, 1, groups=2, dilation=2), (1, 2, 5)),
        (nn.Sequential(nn.ConvTranspose2d(6, 12, 3, 2, 1, groups=3), nn.BatchNorm2d(12)), (1, 6, 4, 5)),
        (nn.ConvTranspose2d(6, 12, 1, padding=(0, 1), groups=6), (1, 6, 4, 5)),
        (LocalNorm(), (1, 6, 4, 5)),
        (nn.AvgPool2d((2, 1), (1, 4), (1, 0)), (1, 3, 5, 12)),
        (nn.MaxPool2d(1, 4), (1, 3, 6, 6)),
        (nn.GELU(), (1, 3, 4, 5)),
    ],
    ids=lambda given: "" if isinstance(given, nn.Module) else str(given),
)
def test_numbers(module, shape, tmp_path):
    check(module, torch.randn(shape), tmp_path)
