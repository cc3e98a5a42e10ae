// RoIWarping on CUDA. Feature gradients are gathered per cell, coordinate gradients reduced per RoI: no atomics.
#include "roi_warping.h"

#include "cuda.h"
#include "pooled_gradient.h"

namespace caffe_bridge {
namespace {

template <typename T>
struct Forward {
  Pooling p;
  const T *features, *rois;
  T* top;

  __device__ void operator()(int64_t i) const {
    const int pw = i % p.pooled_w, ph = i / p.pooled_w % p.pooled_h;
    const int64_t plane = i / p.bins();
    const Roi<T> roi = read_roi(rois + plane / p.channels * 5, p.images);
    T value = 0;
    if (roi.image >= 0) {
      const auto y = rows_of(roi, p.pooled_h, p.height).sample(ph);
      const auto x = columns_of(roi, p.pooled_w, p.width).sample(pw);
      if (y.inside && x.inside) {
        const T* from = features + (int64_t{roi.image} * p.channels + plane % p.channels) * p.cells();
        const T *low = from + int64_t{y.low} * p.width, *high = from + int64_t{y.high} * p.width;
        value = bilinear(y, x, low[x.low], low[x.high], high[x.low], high[x.high]);
      }
    }
    top[i] = value;
  }
};

// What an axis sample contributes to one cell.
template <typename T>
__device__ T weight_at(const AxisSample<T>& s, int cell) {
  return !s.inside ? T(0) : cell == s.low ? s.low_weight : cell == s.high ? s.high_weight : T(0);
}

template <typename T>
struct BackwardFeatures {
  Pooling p;
  bool exact;
  const T *grad, *rois;
  T* result;

  __device__ void operator()(int64_t i) const {
    const int w = i % p.width, h = i / p.width % p.height;
    const int64_t plane = i / p.cells();
    const int image = plane / p.channels, channel = plane % p.channels;
    T sum = 0;
    for (int64_t r = 0; r < p.rois; ++r) {
      const Roi<T> roi = read_roi(rois + r * 5, p.images);
      if (roi.image != image) continue;
      const auto y_axis = rows_of(roi, p.pooled_h, p.height);
      const auto x_axis = columns_of(roi, p.pooled_w, p.width);
      int ph0, ph1, pw0, pw1;
      y_axis.samples_near(h, ph0, ph1);
      x_axis.samples_near(w, pw0, pw1);
      const T* from = grad + (r * p.channels + channel) * p.bins();
      for (int ph = ph0; ph < ph1; ++ph) {
        const T y = weight_at(y_axis.gradient_sample(ph, exact), h);
        if (y == T(0)) continue;
        for (int pw = pw0; pw < pw1; ++pw)
          sum += y * weight_at(x_axis.gradient_sample(pw, exact), w) * from[int64_t{ph} * p.pooled_w + pw];
      }
    }
    result[i] = sum;
  }
};

// One block per RoI.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    coordinate_kernel(Pooling p, bool exact, const T* grad, const T* features, const T* rois, T* result) {
  const int64_t r = blockIdx.x;
  const Roi<T> roi = read_roi(rois + r * 5, p.images);
  double sums[4] = {0, 0, 0, 0};
  if (roi.image >= 0) {
    const auto y_axis = rows_of(roi, p.pooled_h, p.height);
    const auto x_axis = columns_of(roi, p.pooled_w, p.width);
    for (int64_t i = threadIdx.x; i < p.channels * p.bins(); i += kThreads) {
      const int pw = i % p.pooled_w, ph = i / p.pooled_w % p.pooled_h;
      const auto y = y_axis.sample(ph);
      const auto x = x_axis.sample(pw);
      const int64_t plane = (int64_t{roi.image} * p.channels + i / p.bins()) * p.cells();
      T y_start, y_end, x_start, x_end;
      if (!exact && !(y.inside && x.inside)) {
        const ForeignSample<T> foreign(features, plane, p.width);
        const T top = grad[r * p.channels * p.bins() + i];
        y_axis.published_motion(T(-1), y_start, y_end);
        x_axis.published_motion(T(-1), x_start, x_end);
        sums[0] += x_start * top * foreign.dx;
        sums[1] += y_start * top * foreign.dy;
        sums[2] += x_end * top * foreign.dx;
        sums[3] += y_end * top * foreign.dy;
        continue;
      }
      if (!y_axis.motion(y, ph, exact, y_start, y_end) || !x_axis.motion(x, pw, exact, x_start, x_end)) continue;
      const T* from = features + plane;
      const T *low = from + int64_t{y.low} * p.width, *high = from + int64_t{y.high} * p.width;
      const T v00 = low[x.low], v01 = low[x.high], v10 = high[x.low], v11 = high[x.high];
      const T top = grad[r * p.channels * p.bins() + i];
      const T dx = top * slope(y, v00, v01, v10, v11), dy = top * slope(x, v00, v10, v01, v11);
      sums[0] += x_start * dx;
      sums[1] += y_start * dy;
      sums[2] += x_end * dx;
      sums[3] += y_end * dy;
    }
  }
  for (int k = 0; k < 4; ++k) {
    const double sum = block_sum(sums[k]);
    if (threadIdx.x == 0) result[r * 5 + 1 + k] = static_cast<T>(sum);
  }
}

Tensor forward(const Tensor& features_, const Tensor& rois_, int64_t pooled_h, int64_t pooled_w, bool) {
  const Pooling p = pooling(features_, rois_, pooled_h, pooled_w);
  const auto guard = on_device_of(features_);
  const Tensor features = dense(features_), rois = dense(rois_);
  Tensor top = empty(features, {p.rois, p.channels, pooled_h, pooled_w});
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    for_each(top, top.numel(), Forward<T>{p, in<T>(features), in<T>(rois), out<T>(top)});
  });
  return top;
}

Tensor backward_features(const Tensor& grad_, const Tensor& rois_, int64_t images, int64_t height, int64_t width,
                         bool exact) {
  const Pooling p = pooling_of_gradient(grad_, rois_, images, height, width);
  const auto guard = on_device_of(grad_);
  const Tensor grad = dense(grad_), rois = dense(rois_);
  Tensor result = empty(grad, {images, p.channels, height, width});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    for_each(result, result.numel(), BackwardFeatures<T>{p, exact, in<T>(grad), in<T>(rois), out<T>(result)});
  });
  return result;
}

Tensor backward_rois(const Tensor& grad_, const Tensor& features_, const Tensor& rois_, bool exact) {
  const Pooling p = pooling_of_gradient(grad_, features_, rois_);
  const auto guard = on_device_of(grad_);
  const Tensor grad = dense(grad_), features = dense(features_), rois = dense(rois_);
  Tensor result = zeros(rois, {p.rois, 5});
  if (p.rois == 0) return result;
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    coordinate_kernel<<<p.rois, kThreads, 0, stream_of(grad)>>>(p, exact, in<T>(grad), in<T>(features), in<T>(rois),
                                                                out<T>(result));
    check_launch();
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("roi_warping", TORCH_BOX(&forward));
  m.impl("roi_warping_backward_features", TORCH_BOX(&backward_features));
  m.impl("roi_warping_backward_rois", TORCH_BOX(&backward_rois));
}

}  // namespace caffe_bridge
