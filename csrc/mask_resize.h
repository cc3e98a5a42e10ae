// MaskResize (caffe-mnc): bilinear, output (h, w) read at (h * H/OH, w * W/OW), no half-pixel offset.
// Include cpu.h or cuda.h first; they decide where `for_each` runs.
#pragma once

#include "common.h"
#include "tensors.h"

namespace caffe_bridge {
namespace {

// One axis: `from` input cells to `to` output ones.
template <typename T>
struct ResizeAxis {
  int from, to;

  CB_HD T ratio() const { return T(from) / T(to); }
  CB_HD AxisSample<T> sample(int p) const { return sample_axis(T(p) * ratio(), from); }

  // Outputs [first, last) the gradient of `cell` examines: two in the fork, all that can matter when exact.
  CB_HD void outputs(int cell, bool exact, int& first, int& last) const {
    if (exact) {
      first = clipped(std::floor(T(cell - 1) / ratio()), to);
      last = clipped(std::ceil(T(cell + 1) / ratio()) + T(1), to);
    } else {
      first = clipped(std::floor(T(cell) / ratio()), to);
      last = smaller(first + 2, to);
    }
  }

  CB_HD T weight(int p, int cell, bool exact) const {
    if (!exact && std::fabs(T(p) * ratio() - T(cell)) >= T(1)) return T(0);
    const AxisSample<T> s = sample(p);
    return !s.inside ? T(0) : cell == s.low ? s.low_weight : cell == s.high ? s.high_weight : T(0);
  }
};

template <typename T>
struct ResizeForward {
  ResizeAxis<T> rows, columns;
  const T* masks;
  T* top;

  CB_HD void operator()(int64_t i) const {
    const AxisSample<T> x = columns.sample(static_cast<int>(i % columns.to));
    const AxisSample<T> y = rows.sample(static_cast<int>(i / columns.to % rows.to));
    const T* mask = masks + i / columns.to / rows.to * rows.from * columns.from;
    if (!x.inside || !y.inside) {
      top[i] = T(0);
      return;
    }
    const T *low = mask + int64_t{y.low} * columns.from, *high = mask + int64_t{y.high} * columns.from;
    top[i] = y.low_weight * x.low_weight * low[x.low] + y.low_weight * x.high_weight * low[x.high] +
             y.high_weight * x.low_weight * high[x.low] + y.high_weight * x.high_weight * high[x.high];
  }
};

template <typename T>
struct ResizeBackward {
  ResizeAxis<T> rows, columns;
  bool exact;
  const T* grad;
  T* result;

  CB_HD void operator()(int64_t i) const {
    const int w = static_cast<int>(i % columns.from), h = static_cast<int>(i / columns.from % rows.from);
    const T* from = grad + i / columns.from / rows.from * rows.to * columns.to;
    int ph0, ph1, pw0, pw1;
    rows.outputs(h, exact, ph0, ph1);
    columns.outputs(w, exact, pw0, pw1);
    T sum = 0;
    for (int ph = ph0; ph < ph1; ++ph) {
      const T y = rows.weight(ph, h, exact);
      if (y == T(0)) continue;
      for (int pw = pw0; pw < pw1; ++pw) sum += y * columns.weight(pw, w, exact) * from[int64_t{ph} * columns.to + pw];
    }
    result[i] = sum;
  }
};

Tensor resize_forward(const Tensor& masks_, int64_t height, int64_t width, bool) {
  STD_TORCH_CHECK(masks_.dim() == 4, "masks must be (N, C, H, W)");
  STD_TORCH_CHECK(height > 0 && width > 0, "the output size must be positive");
  const Tensor masks = dense(masks_);
  Tensor top = empty(masks, {masks.size(0), masks.size(1), height, width});
  by_dtype(masks, [&](auto zero) {
    using T = decltype(zero);
    const ResizeAxis<T> rows{axis(masks.size(2)), axis(height)}, columns{axis(masks.size(3)), axis(width)};
    for_each(top, top.numel(), ResizeForward<T>{rows, columns, in<T>(masks), out<T>(top)});
  });
  return top;
}

Tensor resize_backward(const Tensor& grad_, int64_t height, int64_t width, bool exact) {
  STD_TORCH_CHECK(grad_.dim() == 4 && grad_.size(2) > 0 && grad_.size(3) > 0, "the gradient must be (N, C, OH, OW)");
  const Tensor grad = dense(grad_);
  Tensor result = empty(grad, {grad.size(0), grad.size(1), height, width});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    const ResizeAxis<T> rows{axis(height), axis(grad.size(2))}, columns{axis(width), axis(grad.size(3))};
    for_each(result, result.numel(), ResizeBackward<T>{rows, columns, exact, in<T>(grad), out<T>(result)});
  });
  return result;
}

}  // namespace
}  // namespace caffe_bridge
