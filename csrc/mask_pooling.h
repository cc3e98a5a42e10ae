// MaskPooling: features (N, C, H, W) times masks (N, 1, H, W), one for all channels. What both devices check and make.
#pragma once

#include <tuple>

#include "tensors.h"

namespace caffe_bridge {
namespace {

// The size of a problem, whose tensors are dense: images, channels of each, cells of a plane.
struct Planes {
  int64_t images, channels, cells;
};

// top = features * masks; each device defines it.
template <typename T>
void fill_top(const Planes& p, const Tensor& features, const Tensor& masks, const Tensor& top);

// grad_features = grad * masks, and grad_masks = grad * features summed over channels; each device defines it.
template <typename T>
void fill_gradients(const Planes& p, const Tensor& grad, const Tensor& features, const Tensor& masks,
                    const Tensor& grad_features, const Tensor& grad_masks);

Planes planes(const Tensor& features, const Tensor& masks) {
  STD_TORCH_CHECK(features.dim() == 4, "features must be (N, C, H, W)");
  check_same(features, masks, "features and masks");
  check_shape(masks, {features.size(0), 1, features.size(2), features.size(3)}, "masks");
  return {features.size(0), features.size(1), features.size(2) * features.size(3)};
}

Tensor mask_forward(const Tensor& features_, const Tensor& masks_) {
  const Planes p = planes(features_, masks_);
  const Tensor features = dense(features_), masks = dense(masks_);
  const Tensor top = torch::stable::empty_like(features);
  by_dtype(features, [&](auto zero) { fill_top<decltype(zero)>(p, features, masks, top); });
  return top;
}

std::tuple<Tensor, Tensor> mask_backward(const Tensor& grad_, const Tensor& features_, const Tensor& masks_) {
  const Planes p = planes(features_, masks_);
  check_same(features_, grad_, "features and gradient");
  check_shape(grad_, {features_.size(0), features_.size(1), features_.size(2), features_.size(3)}, "the gradient");
  const Tensor grad = dense(grad_), features = dense(features_), masks = dense(masks_);
  const Tensor grad_features = torch::stable::empty_like(features), grad_masks = torch::stable::empty_like(masks);
  by_dtype(features, [&](auto zero) {
    fill_gradients<decltype(zero)>(p, grad, features, masks, grad_features, grad_masks);
  });
  return {grad_features, grad_masks};
}

}  // namespace
}  // namespace caffe_bridge
