"""The operations of the detection and cascade layers as plain functions over tensors.

Each is registered in `torch.ops.caffe_bridge` with a fake kernel and autograd. Compiled CPU and CUDA kernels are used
where the extension provides them; otherwise, or with CAFFE_BRIDGE_NATIVE=0, the pure-torch twins run.
Boxes are (x1, y1, x2, y2), RoIs (batch index, x1, y1, x2, y2).
"""

from caffe_bridge import native
from caffe_bridge.layers.functional._library import has_kernel, pure_torch
from caffe_bridge.layers.functional.fingerprint import fingerprint
from caffe_bridge.layers.functional.lrn import lrn, lrn_in_torch
from caffe_bridge.layers.functional.mask_pooling import mask_pooling
from caffe_bridge.layers.functional.mask_resize import mask_resize
from caffe_bridge.layers.functional.mask_voting import mask_voting
from caffe_bridge.layers.functional.max_pool import max_pool, max_pool_indices
from caffe_bridge.layers.functional.nms import nms
from caffe_bridge.layers.functional.psroi_pooling import psroi_pooling
from caffe_bridge.layers.functional.roi_pooling import roi_pooling
from caffe_bridge.layers.functional.roi_warping import roi_warping
from caffe_bridge.layers.functional.sigmoid_cross_entropy_loss import (
    sigmoid_cross_entropy_loss,
    sigmoid_cross_entropy_terms,
)
from caffe_bridge.layers.functional.smooth_l1_loss import smooth_l1_loss

native.load()

__all__ = [
    "fingerprint",
    "has_kernel",
    "lrn",
    "lrn_in_torch",
    "mask_pooling",
    "mask_resize",
    "mask_voting",
    "max_pool",
    "max_pool_indices",
    "nms",
    "psroi_pooling",
    "pure_torch",
    "roi_pooling",
    "roi_warping",
    "sigmoid_cross_entropy_loss",
    "sigmoid_cross_entropy_terms",
    "smooth_l1_loss",
]
