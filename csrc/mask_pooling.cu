// MaskPooling on CUDA.
#include "mask_pooling.h"

#include "cuda.h"

namespace caffe_bridge {
namespace {

// to = from * mask, the mask of each image broadcast over its channels: forward, and backward to the features.
template <typename T>
struct Masked {
  Planes p;
  const T *from, *masks;
  T* to;

  __device__ void operator()(int64_t i) const {
    to[i] = from[i] * masks[i / p.cells / p.channels * p.cells + i % p.cells];
  }
};

template <typename T>
struct MaskGradient {
  Planes p;
  const T *grad, *features;
  T* result;

  __device__ void operator()(int64_t i) const {
    const int64_t first = i / p.cells * p.channels * p.cells + i % p.cells;
    T sum = 0;
    for (int64_t c = 0; c < p.channels; ++c) sum += grad[first + c * p.cells] * features[first + c * p.cells];
    result[i] = sum;
  }
};

template <typename T>
void fill_top(const Planes& p, const Tensor& features, const Tensor& masks, const Tensor& top) {
  for_each(top, top.numel(), Masked<T>{p, in<T>(features), in<T>(masks), out<T>(top)});
}

template <typename T>
void fill_gradients(const Planes& p, const Tensor& grad, const Tensor& features, const Tensor& masks,
                    const Tensor& grad_features, const Tensor& grad_masks) {
  for_each(grad, grad.numel(), Masked<T>{p, in<T>(grad), in<T>(masks), out<T>(grad_features)});
  for_each(grad, masks.numel(), MaskGradient<T>{p, in<T>(grad), in<T>(features), out<T>(grad_masks)});
}

}  // namespace
}  // namespace caffe_bridge

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("mask_pooling", TORCH_BOX(&caffe_bridge::mask_forward));
  m.impl("mask_pooling_backward", TORCH_BOX(&caffe_bridge::mask_backward));
}
