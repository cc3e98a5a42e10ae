// MaskResize on CUDA.
#include "cuda.h"
#include "mask_resize.h"

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("mask_resize", TORCH_BOX(&caffe_bridge::resize_forward));
  m.impl("mask_resize_backward", TORCH_BOX(&caffe_bridge::resize_backward));
}
