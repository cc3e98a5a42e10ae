// Greedy non-maximum suppression: overlap of two boxes with inclusive corners, and when it suppresses.
#pragma once

#include "common.h"

namespace caffe_bridge {

template <typename T>
CB_HD T box_area(T x1, T y1, T x2, T y2) {
  return (x2 - x1 + T(1)) * (y2 - y1 + T(1));
}

// Intersection over union of boxes a and b, both (x1, y1, x2, y2).
template <typename T>
CB_HD T overlap(const T* a, const T* b) {
  const T width = larger(smaller(a[2], b[2]) - larger(a[0], b[0]) + T(1), T(0));
  const T height = larger(smaller(a[3], b[3]) - larger(a[1], b[1]) + T(1), T(0));
  const T both = width * height;
  return both / (box_area(a[0], a[1], a[2], a[3]) + box_area(b[0], b[1], b[2], b[3]) - both);
}

// The least overlap of type T that suppresses: above the threshold rounded to T (the CUDA kernel of MNC), or,
// inclusive, at or above the unrounded threshold (its Cython one).
template <typename T>
T least_suppressing(double threshold, bool inclusive) {
  const T rounded = static_cast<T>(threshold);
  if (inclusive && static_cast<double>(rounded) >= threshold) return rounded;
  return std::nextafter(rounded, static_cast<T>(INFINITY));
}

}  // namespace caffe_bridge
