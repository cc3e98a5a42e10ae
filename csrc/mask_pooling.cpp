// MaskPooling on the CPU: features times a mask shared by all channels, row by row of a plane.
#include <algorithm>
#include <tuple>
#include <vector>

#include "common.h"
#include "tensors.h"

namespace caffe_bridge {
namespace {

Tensor forward(const Tensor& features_, const Tensor& masks_) {
  STD_TORCH_CHECK(features_.dim() == 4, "features must be (N, C, H, W)");
  check_same(features_, masks_, "features and masks");
  check_shape(masks_, {features_.size(0), 1, features_.size(2), features_.size(3)}, "masks");
  const Tensor features = dense(features_), masks = dense(masks_);
  Tensor top = torch::stable::empty_like(features);
  const int64_t channels = features.size(1), cells = features.size(2) * features.size(3);
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    torch::stable::parallel_for(0, features.size(0) * channels, 16, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const T *from = in<T>(features) + plane * cells, *mask = in<T>(masks) + plane / channels * cells;
        T* to = out<T>(top) + plane * cells;
        for (int64_t i = 0; i < cells; ++i) to[i] = from[i] * mask[i];
      }
    });
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
    torch::stable::parallel_for(0, features.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* mask = in<T>(masks) + n * cells;
        T* sum = out<T>(grad_masks) + n * cells;
        std::fill(sum, sum + cells, T(0));
        for (int64_t plane = n * channels; plane < (n + 1) * channels; ++plane) {
          const T *top = in<T>(grad) + plane * cells, *from = in<T>(features) + plane * cells;
          T* to = out<T>(grad_features) + plane * cells;
          for (int64_t i = 0; i < cells; ++i) {
            to[i] = top[i] * mask[i];
            sum[i] += top[i] * from[i];
          }
        }
      }
    });
  });
  return {grad_features, grad_masks};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("mask_pooling", TORCH_BOX(&forward));
  m.impl("mask_pooling_backward", TORCH_BOX(&backward));
}

}  // namespace caffe_bridge
