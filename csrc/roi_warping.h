// The arithmetic of RoIWarping (caffe-mnc): where a sample lies, what it is worth, and its two gradients.
// "Published" gradients are those of the fork; "exact" ones are the derivatives of the forward pass.
#pragma once

#include "roi.h"

namespace caffe_bridge {

// One axis of a RoI, [start, end] in cells, divided into `pooled` samples over `size` cells.
template <typename T>
struct WarpAxis {
  T start, end;
  int pooled, size;

  CB_HD AxisSample<T> sample(int p) const {
    const T bin = larger(end - start, T(0)) / T(pooled);
    return sample_axis(start + T(p) * bin, size);
  }

  // The bin of the fork's backward pass, one cell wider than the forward one.
  CB_HD T backward_bin() const { return larger(end - start + T(1), T(1)) / T(pooled); }

  // Whether the published feature gradient looks at sample p when it gathers for `cell`.
  CB_HD bool published(int p, int cell) const {
    const T bin = backward_bin(), offset = T(cell) - start;
    return T(cell) >= start && T(cell) <= end && T(p) >= std::floor((offset - T(1)) / bin - T(1)) &&
           T(p) < std::ceil((offset + T(1)) / bin);
  }

  // The sample with the weights the feature gradient uses.
  CB_HD AxisSample<T> gradient_sample(int p, bool exact) const {
    AxisSample<T> s = sample(p);
    if (exact || !s.inside) return s;
    if (!published(p, s.low)) s.low_weight = T(0);
    if (!published(p, s.high)) s.high_weight = T(0);
    return s;
  }

  // Samples [first, last) outside which none touches `cell`; a superset is fine.
  CB_HD void samples_near(int cell, int& first, int& last) const {
    const T bin = larger(end - start, T(0)) / T(pooled);
    first = 0;
    last = pooled;
    if (bin <= T(0)) return;
    first = clipped(std::floor((T(cell) - T(1) - start) / bin) - T(1), pooled);
    last = clipped(std::ceil((T(cell) + T(1) - start) / bin) + T(2), pooled);
  }

  // How far the sample moves when `start` or `end` moves by one cell; false when no coordinate gradient
  // flows through this sample at all.
  CB_HD bool motion(const AxisSample<T>& s, int p, bool exact, T& by_start, T& by_end) const {
    if (exact) {
      const T slope = s.clamped ? T(0) : T(1);
      by_end = end >= start ? slope * (T(p) / T(pooled)) : T(0);
      by_start = slope - by_end;
      return s.inside;
    }
    published_motion(s.position, by_start, by_end);
    return s.inside && s.low + 1 <= size - 1;
  }

  CB_HD void published_motion(T position, T& by_start, T& by_end) const {
    by_end = (position - start) / backward_bin() / T(pooled);
    by_start = T(1) - by_end;
  }
};

// The fork's coordinate gradient takes every sample outside the map for one at cell (-1, -1) and so reads what lies
// before the channel's plane: the end of the previous one, nothing (0 here) before the first.
template <typename T>
struct ForeignSample {
  T dx, dy;

  CB_HD ForeignSample(const T* features, int64_t plane, int width) {
    const T v00 = before(features, plane, width + 1), v01 = before(features, plane, width);
    dx = v01 - v00;
    dy = before(features, plane, 1) - v00;
  }

  CB_HD static T before(const T* features, int64_t plane, int offset) {
    return plane >= offset ? features[plane - offset] : T(0);
  }
};

template <typename T>
CB_HD WarpAxis<T> rows_of(const Roi<T>& roi, int pooled, int height) {
  return {roi.y1, roi.y2, pooled, height};
}

template <typename T>
CB_HD WarpAxis<T> columns_of(const Roi<T>& roi, int pooled, int width) {
  return {roi.x1, roi.x2, pooled, width};
}

template <typename T>
CB_HD T bilinear(const AxisSample<T>& y, const AxisSample<T>& x, T v00, T v01, T v10, T v11) {
  return y.low_weight * x.low_weight * v00 + y.low_weight * x.high_weight * v01 +
         y.high_weight * x.low_weight * v10 + y.high_weight * x.high_weight * v11;
}

// Slope of the sampled value along x; along y with the roles of the axes and of v01, v10 exchanged.
template <typename T>
CB_HD T slope(const AxisSample<T>& across, T v00, T v01, T v10, T v11) {
  return across.low_weight * (v01 - v00) + across.high_weight * (v11 - v10);
}

}  // namespace caffe_bridge
