// MaskPooling on the CPU, row by row of a plane.
#include "mask_pooling.h"

#include <algorithm>

namespace caffe_bridge {
namespace {

template <typename T>
void fill_top(const Planes& p, const Tensor& features, const Tensor& masks, const Tensor& top) {
  torch::stable::parallel_for(0, p.images * p.channels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T *from = in<T>(features) + plane * p.cells, *mask = in<T>(masks) + plane / p.channels * p.cells;
      T* to = out<T>(top) + plane * p.cells;
      for (int64_t i = 0; i < p.cells; ++i) to[i] = from[i] * mask[i];
    }
  });
}

template <typename T>
void fill_gradients(const Planes& p, const Tensor& grad, const Tensor& features, const Tensor& masks,
                    const Tensor& grad_features, const Tensor& grad_masks) {
  torch::stable::parallel_for(0, p.images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* mask = in<T>(masks) + n * p.cells;
      T* sum = out<T>(grad_masks) + n * p.cells;
      std::fill(sum, sum + p.cells, T(0));
      for (int64_t plane = n * p.channels; plane < (n + 1) * p.channels; ++plane) {
        const T *top = in<T>(grad) + plane * p.cells, *from = in<T>(features) + plane * p.cells;
        T* to = out<T>(grad_features) + plane * p.cells;
        for (int64_t i = 0; i < p.cells; ++i) {
          to[i] = top[i] * mask[i];
          sum[i] += top[i] * from[i];
        }
      }
    }
  });
}

}  // namespace
}  // namespace caffe_bridge

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("mask_pooling", TORCH_BOX(&caffe_bridge::mask_forward));
  m.impl("mask_pooling_backward", TORCH_BOX(&caffe_bridge::mask_backward));
}
