"""ResNet-50 as its authors released it."""

from __future__ import annotations

from typing import Any

from . import zoo_blocks as z
from .resnet import RESNET50


def resnet50() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("ResNet-50", (1, 3, 224, 224), z.probabilities(RESNET50.classifier))}
