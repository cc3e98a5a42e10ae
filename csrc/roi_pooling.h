// The arithmetic of ROIPooling (Fast R-CNN): which cells a bin covers, and which bins its gradient serves.
#pragma once

#include "roi.h"
#include "tensors.h"

namespace caffe_bridge {

// One axis of a RoI, cells [start, end] inclusive, divided into `pooled` bins over `size` cells.
template <typename T>
struct PoolAxis {
  T start, end;
  int pooled, size;

  CB_HD T bin() const { return larger(end - start + T(1), T(1)) / T(pooled); }

  // Cells [first, last) of bin p; empty when it lies outside the map.
  CB_HD void cells(int p, int& first, int& last) const {
    first = clipped(std::floor(T(p) * bin()) + start, size);
    last = clipped(std::ceil(T(p + 1) * bin()) + start, size);
  }

  // Bins [first, last) whose gradient the original accepts at `cell`; none outside the RoI, so a RoI that ends
  // before it starts pools a cell but passes no gradient.
  CB_HD void bins(int cell, int& first, int& last) const {
    first = last = 0;
    if (T(cell) < start || T(cell) > end) return;
    first = clipped(std::floor((T(cell) - start) / bin()), pooled);
    last = clipped(std::ceil((T(cell) - start + T(1)) / bin()), pooled);
  }
};

template <typename T>
CB_HD PoolAxis<T> pool_rows(const Roi<T>& roi, int pooled, int height) {
  return {roi.y1, roi.y2, pooled, height};
}

template <typename T>
CB_HD PoolAxis<T> pool_columns(const Roi<T>& roi, int pooled, int width) {
  return {roi.x1, roi.x2, pooled, width};
}

// The cells that the maxima came from, beside their gradient.
inline void check_argmax(const Tensor& argmax, const Tensor& grad) {
  check_shape(argmax, {grad.size(0), grad.size(1), grad.size(2), grad.size(3)}, "argmax");
  STD_TORCH_CHECK(argmax.scalar_type() == ScalarType::Int, "argmax must be int32");
  STD_TORCH_CHECK(argmax.is_cuda() == grad.is_cuda() && argmax.get_device_index() == grad.get_device_index(),
                  "argmax must be on the gradient's device");
}

}  // namespace caffe_bridge
