// The gradient (R, C, PH, PW) of pooled or warped RoIs, checked against what it belongs to before it is passed back.
#pragma once

#include "tensors.h"

namespace caffe_bridge {

inline void check_pooled(const Tensor& grad, const Tensor& rois, const Pooling& p) {
  check_same(grad, rois, "gradient and RoIs");
  check_shape(grad, {p.rois, p.channels, p.pooled_h, p.pooled_w}, "the gradient");
}

inline void check_four_axes(const Tensor& grad) {
  STD_TORCH_CHECK(grad.dim() == 4, "the gradient must be (R, C, PH, PW)");
}

// The problem that the gradient is of, for features of this size.
inline Pooling pooling_of_gradient(const Tensor& grad, const Tensor& rois, int64_t images, int64_t height,
                                   int64_t width) {
  check_four_axes(grad);
  const Pooling p = pooling(rois, images, grad.size(1), height, width, grad.size(2), grad.size(3));
  check_pooled(grad, rois, p);
  return p;
}

inline Pooling pooling_of_gradient(const Tensor& grad, const Tensor& features, const Tensor& rois) {
  check_four_axes(grad);
  const Pooling p = pooling(features, rois, grad.size(2), grad.size(3));
  check_pooled(grad, rois, p);
  return p;
}

}  // namespace caffe_bridge
