// MaskPooling on CUDA: features times a mask shared by all channels.
#include <tuple>

#include "cuda.h"

namespace caffe_bridge {
namespace {

// to = from * mask, the mask of each image broadcast over its channels: forward, and backward to the features.
template <typename T>
struct Masked {
  int64_t channels, cells;
  const T *from, *masks;
  T* to;

  __device__ void operator()(int64_t i) const { to[i] = from[i] * masks[i / cells / channels * cells + i % cells]; }
};

template <typename T>
struct MaskGradient {
  int64_t channels, cells;
  const T *grad, *features;
  T* result;

  __device__ void operator()(int64_t i) const {
    const int64_t first = i / cells * channels * cells + i % cells;
    T sum = 0;
    for (int64_t c = 0; c < channels; ++c) sum += grad[first + c * cells] * features[first + c * cells];
    result[i] = sum;
  }
};

Tensor forward(const Tensor& features_, const Tensor& masks_) {
  STD_TORCH_CHECK(features_.dim() == 4, "features must be (N, C, H, W)");
  check_same(features_, masks_, "features and masks");
  check_shape(masks_, {features_.size(0), 1, features_.size(2), features_.size(3)}, "masks");
  const Tensor features = dense(features_), masks = dense(masks_);
  Tensor top = torch::stable::empty_like(features);
  const int64_t channels = features.size(1), cells = features.size(2) * features.size(3);
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    for_each(top, top.numel(), Masked<T>{channels, cells, in<T>(features), in<T>(masks), out<T>(top)});
  });
  return top;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_, const Tensor& features_, const Tensor& masks_) {
  STD_TORCH_CHECK(features_.dim() == 4, "features must be (N, C, H, W)");
  check_same(features_, masks_, "features and masks");
  check_same(features_, grad_, "features and gradient");
  check_shape(masks_, {features_.size(0), 1, features_.size(2), features_.size(3)}, "masks");
  check_shape(grad_, {features_.size(0), features_.size(1), features_.size(2), features_.size(3)}, "the gradient");
  const Tensor grad = dense(grad_), features = dense(features_), masks = dense(masks_);
  Tensor grad_features = torch::stable::empty_like(features), grad_masks = torch::stable::empty_like(masks);
  const int64_t channels = features.size(1), cells = features.size(2) * features.size(3);
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    for_each(grad, grad.numel(), Masked<T>{channels, cells, in<T>(grad), in<T>(masks), out<T>(grad_features)});
    for_each(grad, masks.numel(),
             MaskGradient<T>{channels, cells, in<T>(grad), in<T>(features), out<T>(grad_masks)});
  });
  return {grad_features, grad_masks};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("mask_pooling", TORCH_BOX(&forward));
  m.impl("mask_pooling_backward", TORCH_BOX(&backward));
}

}  // namespace caffe_bridge
