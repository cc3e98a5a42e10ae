// PSROIPooling (R-FCN): bin (ph, pw) of output channel c averages feature channel (c * group + ph) * group + pw.
// Include cpu.h or cuda.h first; they decide where `for_each` runs.
#pragma once

#include "roi.h"
#include "tensors.h"

namespace caffe_bridge {
namespace {

// One axis of a RoI of image pixels, rounded before it is scaled; the far edge is one pixel further.
template <typename T>
struct GroupAxis {
  T start, bin;
  int size;

  CB_HD GroupAxis(T first, T last, T scale, int group, int size) : size(size) {
    start = std::round(first) * scale;
    const T end = (std::round(last) + T(1)) * scale;
    bin = larger(end - start, T(0.1)) / T(group);
  }

  // Cells [first, last) of bin p.
  CB_HD void cells(int p, int& first, int& last) const {
    first = clipped(std::floor(T(p) * bin + start), size);
    last = clipped(std::ceil(T(p + 1) * bin + start), size);
  }
};

// The window of one bin of one RoI.
struct Window {
  int h0, h1, w0, w1;

  CB_HD bool contains(int h, int w) const { return h >= h0 && h < h1 && w >= w0 && w < w1; }
  CB_HD int area() const { return h1 > h0 && w1 > w0 ? (h1 - h0) * (w1 - w0) : 0; }
};

template <typename T>
CB_HD Window window(const Roi<T>& roi, const Pooling& p, T scale, int ph, int pw) {
  Window result;
  GroupAxis<T>(roi.y1, roi.y2, scale, p.pooled_h, p.height).cells(ph, result.h0, result.h1);
  GroupAxis<T>(roi.x1, roi.x2, scale, p.pooled_w, p.width).cells(pw, result.w0, result.w1);
  return result;
}

template <typename T>
struct PsroiForward {
  Pooling p;
  int output_dim;
  T scale;
  const T *features, *rois;
  T* top;

  CB_HD void operator()(int64_t i) const {
    const int group = p.pooled_w;
    const int pw = i % group, ph = i / group % group, c = i / p.bins() % output_dim;
    const Roi<T> roi = read_roi(rois + i / p.bins() / output_dim * 5, p.images);
    T sum = 0;
    if (roi.image >= 0) {
      const Window bin = window(roi, p, scale, ph, pw);
      const int64_t channel = (int64_t{c} * group + ph) * group + pw;
      const T* from = features + (int64_t{roi.image} * p.channels + channel) * p.cells();
      for (int h = bin.h0; h < bin.h1; ++h)
        for (int w = bin.w0; w < bin.w1; ++w) sum += from[int64_t{h} * p.width + w];
      if (bin.area() > 0) sum /= T(bin.area());
    }
    top[i] = sum;
  }
};

// The gradient of one feature cell, gathered from all RoIs.
template <typename T>
struct PsroiBackward {
  Pooling p;
  int output_dim;
  T scale;
  const T *grad, *rois;
  T* result;

  CB_HD void operator()(int64_t i) const {
    const int group = p.pooled_w;
    const int w = i % p.width, h = i / p.width % p.height;
    const int channel = i / p.cells() % p.channels, image = i / p.cells() / p.channels;
    const int pw = channel % group, ph = channel / group % group, c = channel / group / group;
    T sum = 0;
    for (int64_t r = 0; r < p.rois; ++r) {
      const Roi<T> roi = read_roi(rois + r * 5, p.images);
      if (roi.image != image) continue;
      const Window bin = window(roi, p, scale, ph, pw);
      if (bin.contains(h, w)) sum += grad[((r * output_dim + c) * group + ph) * group + pw] / T(bin.area());
    }
    result[i] = sum;
  }
};

// Fills kernel.result; each device in the order of work that suits it.
template <typename T>
void fill_gradient(const Tensor& result, const PsroiBackward<T>& kernel);

Tensor psroi_forward(const Tensor& features_, const Tensor& rois_, int64_t output_dim, int64_t group, double scale) {
  const Pooling p = pooling(features_, rois_, group, group);
  STD_TORCH_CHECK(output_dim > 0 && group < 32768 && p.channels == output_dim * group * group,
                  "features need output_dim * group_size^2 channels");
  const Tensor features = dense(features_), rois = dense(rois_);
  Tensor top = empty(features, {p.rois, output_dim, group, group});
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    for_each(top, top.numel(),
             PsroiForward<T>{p, axis(output_dim), static_cast<T>(scale), in<T>(features), in<T>(rois), out<T>(top)});
  });
  return top;
}

Tensor psroi_backward(const Tensor& grad_, const Tensor& rois_, double scale, int64_t images, int64_t height,
                      int64_t width) {
  STD_TORCH_CHECK(grad_.dim() == 4 && grad_.size(2) == grad_.size(3) && grad_.size(2) < 32768,
                  "the gradient must be (R, output_dim, group, group)");
  const int64_t output_dim = grad_.size(1), group = grad_.size(2);
  const Pooling p = pooling(rois_, images, output_dim * group * group, height, width, group, group);
  check_same(grad_, rois_, "gradient and RoIs");
  check_shape(grad_, {p.rois, output_dim, group, group}, "the gradient");
  const Tensor grad = dense(grad_), rois = dense(rois_);
  Tensor result = empty(grad, {images, p.channels, height, width});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    fill_gradient(result, PsroiBackward<T>{p, axis(output_dim), static_cast<T>(scale), in<T>(grad), in<T>(rois),
                                           out<T>(result)});
  });
  return result;
}

}  // namespace
}  // namespace caffe_bridge
