// ROIPooling on the CPU: forward over blocks of channels, backward over the planes of the result.
#include "roi_pooling.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "blocked.h"
#include "pooled_gradient.h"
#include "tensors.h"

namespace caffe_bridge {
namespace {

template <typename T>
CB_HD void maximum(const T* plane, int width, int h0, int h1, int w0, int w1, T* value, int32_t* index) {
  T best[kBlock];
  int32_t at[kBlock];
  for (int lane = 0; lane < kBlock; ++lane) {
    best[lane] = h0 >= h1 || w0 >= w1 ? T(0) : T(kLowest);
    at[lane] = -1;
  }
  for (int h = h0; h < h1; ++h)
    for (int w = w0; w < w1; ++w) {
      const int32_t cell = h * width + w;
      const T* here = plane + int64_t{cell} * kBlock;
      for (int lane = 0; lane < kBlock; ++lane) {
        at[lane] = here[lane] > best[lane] ? cell : at[lane];
        best[lane] = here[lane] > best[lane] ? here[lane] : best[lane];
      }
    }
  std::copy(best, best + kBlock, value);
  std::copy(at, at + kBlock, index);
}

CB_CLONES void maxima(const float* plane, int width, int h0, int h1, int w0, int w1, float* value, int32_t* index) {
  maximum(plane, width, h0, h1, w0, w1, value, index);
}

CB_CLONES void maxima(const double* plane, int width, int h0, int h1, int w0, int w1, double* value, int32_t* index) {
  maximum(plane, width, h0, h1, w0, w1, value, index);
}

std::tuple<Tensor, Tensor> forward(const Tensor& features_, const Tensor& rois_, int64_t pooled_h, int64_t pooled_w) {
  const Pooling p = pooling(features_, rois_, pooled_h, pooled_w);
  axis(p.cells());
  const Tensor features = dense(features_), rois = dense(rois_);
  Tensor top = empty(features, {p.rois, p.channels, pooled_h, pooled_w});
  Tensor argmax = empty(features, {p.rois, p.channels, pooled_h, pooled_w}, ScalarType::Int);
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    if (top.numel() == 0) return;
    Blocked<T> blocked(p.images, p.channels, p.cells());
    blocked.load(in<T>(features));
    torch::stable::parallel_for(0, int64_t{p.rois} * blocked.blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i / p.rois, r = i % p.rois;
        const int count = blocked.valid(block);
        const Roi<T> roi = read_roi(in<T>(rois) + r * 5, p.images);
        const int64_t first = (r * p.channels + block * kBlock) * p.bins();
        T* values = out<T>(top) + first;
        int32_t* indices = out<int32_t>(argmax) + first;
        if (roi.image < 0) {
          std::fill(values, values + count * p.bins(), T(0));
          std::fill(indices, indices + count * p.bins(), -1);
          continue;
        }
        const auto y = pool_rows(roi, p.pooled_h, p.height);
        const auto x = pool_columns(roi, p.pooled_w, p.width);
        for (int ph = 0; ph < p.pooled_h; ++ph)
          for (int pw = 0; pw < p.pooled_w; ++pw) {
            int h0, h1, w0, w1;
            y.cells(ph, h0, h1);
            x.cells(pw, w0, w1);
            T value[kBlock];
            int32_t index[kBlock];
            maxima(blocked.plane(roi.image, block), p.width, h0, h1, w0, w1, value, index);
            const int64_t bin = int64_t{ph} * p.pooled_w + pw;
            for (int lane = 0; lane < count; ++lane) {
              values[lane * p.bins() + bin] = value[lane];
              indices[lane * p.bins() + bin] = index[lane];
            }
          }
      }
    });
  });
  return {top, argmax};
}

// Bins [first, last) that may pass their gradient to each row or column of the map.
struct Reach {
  std::vector<int> first, last;

  template <typename T>
  explicit Reach(const PoolAxis<T>& axis) : first(axis.size), last(axis.size) {
    for (int cell = 0; cell < axis.size; ++cell) axis.bins(cell, first[cell], last[cell]);
  }

  bool contains(int cell, int bin) const { return bin >= first[cell] && bin < last[cell]; }
};

Tensor backward(const Tensor& grad_, const Tensor& argmax_, const Tensor& rois_, int64_t images, int64_t height,
                int64_t width) {
  const Pooling p = pooling_of_gradient(grad_, rois_, images, height, width);
  check_argmax(argmax_, grad_);
  const Tensor grad = dense(grad_), argmax = dense(argmax_), rois = dense(rois_);
  Tensor result = zeros(grad, {images, p.channels, height, width});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    std::vector<int> images;
    std::vector<Reach> rows, columns;
    for (int r = 0; r < p.rois; ++r) {
      const Roi<T> roi = read_roi(in<T>(rois) + int64_t{r} * 5, p.images);
      images.push_back(roi.image);
      rows.emplace_back(pool_rows(roi, p.pooled_h, p.height));
      columns.emplace_back(pool_columns(roi, p.pooled_w, p.width));
    }
    torch::stable::parallel_for(0, int64_t{p.images} * p.channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* plane = out<T>(result) + i * p.cells();
        for (int64_t r = 0; r < p.rois; ++r) {
          if (images[r] != i / p.channels) continue;
          const int64_t first = (r * p.channels + i % p.channels) * p.bins();
          const T* from = in<T>(grad) + first;
          const int32_t* cell = in<int32_t>(argmax) + first;
          for (int ph = 0; ph < p.pooled_h; ++ph)
            for (int pw = 0; pw < p.pooled_w; ++pw, ++cell, ++from)
              if (*cell >= 0 && *cell < p.cells() && rows[r].contains(*cell / p.width, ph) &&
                  columns[r].contains(*cell % p.width, pw))
                plane[*cell] += *from;
        }
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("roi_pooling", TORCH_BOX(&forward));
  m.impl("roi_pooling_backward", TORCH_BOX(&backward));
}

}  // namespace caffe_bridge
