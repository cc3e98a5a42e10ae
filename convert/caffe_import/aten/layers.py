"""Layers in one piece: operators torch.ops.caffe, which torch_export's sources have, and torchvision's RoI pooling."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge import schema, text_format
from caffe_bridge.convert.caffe_import.aten.registry import converts, leaves
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.whole_layers import may_be_restored
from caffe_bridge.convert.torch_export import written_types
from caffe_bridge.errors import CaffeError

PREFIX = "caffe."


def restored(target: torch._ops.OpOverload, b: Builder, *arguments: Any, **keywords: Any) -> list[Value]:
    """The layer that a call of an operator says it is.

    Bottoms are the first tensors among its arguments in the order of its schema, `weights` the layer's weights.
    """
    given = dict(zip((argument.name for argument in target._schema.arguments), arguments)) | keywords
    layer, weights = given.pop("layer", ""), given.pop("weights", ())
    if not layer:
        raise Unsupported("does not say which layer of Caffe it is", "pass it as layer=..., as in a prototxt")
    param = schema.LayerParameter()
    try:
        text_format.parse(layer, param)
    except CaffeError as error:
        raise Unsupported(f"has a definition of its layer that cannot be read: {error}") from error
    if not may_be_restored(param, written_types()):
        raise Unsupported(f"says that it is a layer of type '{param.type}', which is not written for PyTorch")
    tensors = [value for value in leaves(list(given.values())) if isinstance(value, Value)]
    if len(tensors) < len(param.bottom):
        raise Unsupported(f"has {len(tensors)} tensors for the {len(param.bottom)} bottoms of its layer")
    blobs = [value.constant("a weight") for value in weights]
    return b.add_layer(param, len(param.top), tensors[: len(param.bottom)], blobs)


@converts("torchvision.roi_pool")
def roi_pool(b: Builder, x: Value, rois: Value, scale: float, height: int, width: int) -> list[Value]:
    """torchvision's RoI pooling, which is Caffe's; without the positions of the maxima."""
    param = schema.LayerParameter(type="ROIPooling")
    param.roi_pooling_param.pooled_h, param.roi_pooling_param.pooled_w = height, width
    param.roi_pooling_param.spatial_scale = scale
    return b.add_layer(param, 1, [x, rois])
