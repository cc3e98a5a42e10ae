// ROIPooling on CUDA; the gradient is gathered per cell, as in the original.
#include "roi_pooling.h"

#include <tuple>

#include "cuda.h"
#include "pooled_gradient.h"

namespace caffe_bridge {
namespace {

template <typename T>
struct Forward {
  Pooling p;
  const T *features, *rois;
  T* top;
  int32_t* argmax;

  __device__ void operator()(int64_t i) const {
    const int pw = i % p.pooled_w, ph = i / p.pooled_w % p.pooled_h;
    const int64_t plane = i / p.bins();
    const Roi<T> roi = read_roi(rois + plane / p.channels * 5, p.images);
    T value = 0;
    int32_t index = -1;
    if (roi.image >= 0) {
      int h0, h1, w0, w1;
      pool_rows(roi, p.pooled_h, p.height).cells(ph, h0, h1);
      pool_columns(roi, p.pooled_w, p.width).cells(pw, w0, w1);
      const T* from = features + (int64_t{roi.image} * p.channels + plane % p.channels) * p.cells();
      if (h0 < h1 && w0 < w1) value = T(kLowest);
      for (int h = h0; h < h1; ++h)
        for (int w = w0; w < w1; ++w)
          if (from[int64_t{h} * p.width + w] > value) {
            index = h * p.width + w;
            value = from[index];
          }
    }
    top[i] = value;
    argmax[i] = index;
  }
};

template <typename T>
struct Backward {
  Pooling p;
  const T* grad;
  const int32_t* argmax;
  const T* rois;
  T* result;

  __device__ void operator()(int64_t i) const {
    const int w = i % p.width, h = i / p.width % p.height;
    const int64_t plane = i / p.cells();
    const int image = plane / p.channels, channel = plane % p.channels;
    T sum = 0;
    for (int64_t r = 0; r < p.rois; ++r) {
      const Roi<T> roi = read_roi(rois + r * 5, p.images);
      if (roi.image != image) continue;
      int ph0, ph1, pw0, pw1;
      pool_rows(roi, p.pooled_h, p.height).bins(h, ph0, ph1);
      pool_columns(roi, p.pooled_w, p.width).bins(w, pw0, pw1);
      const int64_t first = (r * p.channels + channel) * p.bins();
      for (int ph = ph0; ph < ph1; ++ph)
        for (int pw = pw0; pw < pw1; ++pw) {
          const int64_t bin = first + int64_t{ph} * p.pooled_w + pw;
          if (argmax[bin] == h * p.width + w) sum += grad[bin];
        }
    }
    result[i] = sum;
  }
};

std::tuple<Tensor, Tensor> forward(const Tensor& features_, const Tensor& rois_, int64_t pooled_h, int64_t pooled_w) {
  const Pooling p = pooling(features_, rois_, pooled_h, pooled_w);
  axis(p.cells());
  const auto guard = on_device_of(features_);
  const Tensor features = dense(features_), rois = dense(rois_);
  Tensor top = empty(features, {p.rois, p.channels, pooled_h, pooled_w});
  Tensor argmax = empty(features, {p.rois, p.channels, pooled_h, pooled_w}, ScalarType::Int);
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    for_each(top, top.numel(), Forward<T>{p, in<T>(features), in<T>(rois), out<T>(top), out<int32_t>(argmax)});
  });
  return {top, argmax};
}

Tensor backward(const Tensor& grad_, const Tensor& argmax_, const Tensor& rois_, int64_t images, int64_t height,
                int64_t width) {
  const Pooling p = pooling_of_gradient(grad_, rois_, images, height, width);
  check_argmax(argmax_, grad_);
  const auto guard = on_device_of(grad_);
  const Tensor grad = dense(grad_), argmax = dense(argmax_), rois = dense(rois_);
  Tensor result = empty(grad, {images, p.channels, height, width});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    for_each(result, result.numel(), Backward<T>{p, in<T>(grad), in<int32_t>(argmax), in<T>(rois), out<T>(result)});
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("roi_pooling", TORCH_BOX(&forward));
  m.impl("roi_pooling_backward", TORCH_BOX(&backward));
}

}  // namespace caffe_bridge
