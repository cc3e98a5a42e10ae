"""Which project a detection net comes from: whose settings it is made for, and whose rules it is tested by."""

from __future__ import annotations

from caffe_bridge.definition import NetDefinition

_PY_FASTER_RCNN = ("rpn.", "roi_data_layer.")


def project_of(definition: NetDefinition) -> str:
    """The name that `config.use` knows the project of a net by.

    "py_faster_rcnn" for nets with its Python layers, and for those that are fed images and RoIs alone, which are Fast
    R-CNN's test nets; "mnc" for all others.
    """
    param = definition.param
    if any(layer.python_param.module.startswith(_PY_FASTER_RCNN) for layer in param.layer):
        return "py_faster_rcnn"
    fed = {top for layer in param.layer if layer.type == "Input" for top in layer.top} | set(param.input)
    return "py_faster_rcnn" if fed == {"data", "rois"} else "mnc"
