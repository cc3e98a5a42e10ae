// RoI rows: (batch index, x1, y1, x2, y2) in feature cells, already rounded by the caller.
#pragma once

#include "common.h"

namespace caffe_bridge {

// `image` is -1 for a row that must not be read: not finite, or a batch index outside the batch.
template <typename T>
struct Roi {
  int image;
  T x1, y1, x2, y2;
};

template <typename T>
CB_HD Roi<T> read_roi(const T* row, int images) {
  Roi<T> roi{-1, row[1], row[2], row[3], row[4]};
  const bool finite = is_finite(row[1]) && is_finite(row[2]) && is_finite(row[3]) && is_finite(row[4]);
  if (finite && row[0] > T(-1) && row[0] < T(images)) roi.image = static_cast<int>(row[0]);
  return roi;
}

}  // namespace caffe_bridge
