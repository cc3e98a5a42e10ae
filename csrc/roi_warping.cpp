// RoIWarping on the CPU: blocks of channels are the unit of parallel work, and of every inner loop.
#include "roi_warping.h"

#include <algorithm>
#include <vector>

#include "blocked.h"
#include "pooled_gradient.h"
#include "tensors.h"

namespace caffe_bridge {
namespace {

// The samples of one RoI along both axes.
template <typename T>
struct Grid {
  std::vector<AxisSample<T>> rows, columns;

  Grid(const Roi<T>& roi, const Pooling& p, bool for_gradient, bool exact) : rows(p.pooled_h), columns(p.pooled_w) {
    const auto y = rows_of(roi, p.pooled_h, p.height);
    const auto x = columns_of(roi, p.pooled_w, p.width);
    for (int i = 0; i < p.pooled_h; ++i) rows[i] = for_gradient ? y.gradient_sample(i, exact) : y.sample(i);
    for (int i = 0; i < p.pooled_w; ++i) columns[i] = for_gradient ? x.gradient_sample(i, exact) : x.sample(i);
  }
};

template <typename T>
CB_HD void forward_row(const T* plane, int width, const AxisSample<T>& y, const AxisSample<T>* columns, int pooled_w,
                       T* tile) {
  const T* low = plane + int64_t{y.low} * width * kBlock;
  const T* high = plane + int64_t{y.high} * width * kBlock;
  for (int p = 0; p < pooled_w; ++p, tile += kBlock) {
    const AxisSample<T>& x = columns[p];
    if (!x.inside) {
      for (int lane = 0; lane < kBlock; ++lane) tile[lane] = T(0);
      continue;
    }
    const T *v00 = low + x.low * kBlock, *v01 = low + x.high * kBlock;
    const T *v10 = high + x.low * kBlock, *v11 = high + x.high * kBlock;
    for (int lane = 0; lane < kBlock; ++lane) tile[lane] = bilinear(y, x, v00[lane], v01[lane], v10[lane], v11[lane]);
  }
}

template <typename T>
CB_HD void backward_row(T* plane, int width, const AxisSample<T>& y, const AxisSample<T>* columns, int pooled_w,
                        const T* tile) {
  T* low = plane + int64_t{y.low} * width * kBlock;
  T* high = plane + int64_t{y.high} * width * kBlock;
  for (int p = 0; p < pooled_w; ++p, tile += kBlock) {
    const AxisSample<T>& x = columns[p];
    if (!x.inside) continue;
    const auto add = [&](T* row, T y_weight, int column, T x_weight) {
      const T weight = y_weight * x_weight;
      if (weight == T(0)) return;
      T* cell = row + column * kBlock;
      for (int lane = 0; lane < kBlock; ++lane) cell[lane] += weight * tile[lane];
    };
    add(low, y.low_weight, x.low, x.low_weight);
    add(low, y.low_weight, x.high, x.high_weight);
    add(high, y.high_weight, x.low, x.low_weight);
    add(high, y.high_weight, x.high, x.high_weight);
  }
}

// Adds one row of samples to sums[4][kBlock]: gradients of x1, y1, x2, y2, kept apart by lane.
template <typename T>
CB_HD void coordinate_row(const T* plane, int width, const WarpAxis<T>& y_axis, const WarpAxis<T>& x_axis, int row,
                          const AxisSample<T>& y, const AxisSample<T>* columns, bool exact, const T* tile,
                          double* sums) {
  T y_start, y_end;
  if (!y_axis.motion(y, row, exact, y_start, y_end)) return;
  T partial[4][kBlock] = {};
  const T* low = plane + int64_t{y.low} * width * kBlock;
  const T* high = plane + int64_t{y.high} * width * kBlock;
  for (int p = 0; p < x_axis.pooled; ++p, tile += kBlock) {
    const AxisSample<T>& x = columns[p];
    T x_start, x_end;
    if (!x_axis.motion(x, p, exact, x_start, x_end)) continue;
    const T *v00 = low + x.low * kBlock, *v01 = low + x.high * kBlock;
    const T *v10 = high + x.low * kBlock, *v11 = high + x.high * kBlock;
    for (int lane = 0; lane < kBlock; ++lane) {
      const T dx = tile[lane] * slope(y, v00[lane], v01[lane], v10[lane], v11[lane]);
      const T dy = tile[lane] * slope(x, v00[lane], v10[lane], v01[lane], v11[lane]);
      partial[0][lane] += x_start * dx;
      partial[1][lane] += y_start * dy;
      partial[2][lane] += x_end * dx;
      partial[3][lane] += y_end * dy;
    }
  }
  for (int k = 0; k < 4; ++k)
    for (int lane = 0; lane < kBlock; ++lane) sums[k * kBlock + lane] += partial[k][lane];
}

// Instruction sets are chosen at these plain functions; templates cannot be cloned.
#define CB_ROWS(T)                                                                                                   \
  CB_CLONES void forward_rows(const T* plane, int width, const AxisSample<T>& y, const AxisSample<T>* columns,       \
                              int pooled_w, T* tile) {                                                               \
    forward_row(plane, width, y, columns, pooled_w, tile);                                                           \
  }                                                                                                                  \
  CB_CLONES void backward_rows(T* plane, int width, const AxisSample<T>& y, const AxisSample<T>* columns,            \
                               int pooled_w, const T* tile) {                                                        \
    backward_row(plane, width, y, columns, pooled_w, tile);                                                          \
  }                                                                                                                  \
  CB_CLONES void coordinate_rows(const T* plane, int width, const WarpAxis<T>& y_axis, const WarpAxis<T>& x_axis,    \
                                 int row, const AxisSample<T>& y, const AxisSample<T>* columns, bool exact,          \
                                 const T* tile, double* sums) {                                                      \
    coordinate_row(plane, width, y_axis, x_axis, row, y, columns, exact, tile, sums);                                \
  }
CB_ROWS(float)
CB_ROWS(double)
#undef CB_ROWS

// `count` planes of `bins` values, starting at a row of `pooled_w`, regrouped by sample; absent channels are 0.
template <typename T>
void load_tile(const T* rows, int64_t bins, int pooled_w, int count, T* tile) {
  for (int p = 0; p < pooled_w; ++p)
    for (int lane = 0; lane < kBlock; ++lane) tile[p * kBlock + lane] = lane < count ? rows[lane * bins + p] : T(0);
}

Tensor forward(const Tensor& features_, const Tensor& rois_, int64_t pooled_h, int64_t pooled_w, bool) {
  const Pooling p = pooling(features_, rois_, pooled_h, pooled_w);
  const Tensor features = dense(features_), rois = dense(rois_);
  Tensor top = empty(features, {p.rois, p.channels, pooled_h, pooled_w});
  by_dtype(features, [&](auto zero) {
    using T = decltype(zero);
    if (top.numel() == 0) return;
    Blocked<T> blocked(p.images, p.channels, p.cells());
    blocked.load(in<T>(features));
    const T* rows = in<T>(rois);
    T* target = out<T>(top);
    torch::stable::parallel_for(0, int64_t{p.rois} * blocked.blocks, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> tile(static_cast<size_t>(p.pooled_w) * kBlock);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i / p.rois, r = i % p.rois;
        const int count = blocked.valid(block);
        const Roi<T> roi = read_roi(rows + r * 5, p.images);
        T* planes = target + (r * p.channels + block * kBlock) * p.bins();
        if (roi.image < 0) {
          std::fill(planes, planes + count * p.bins(), T(0));
          continue;
        }
        const Grid<T> grid(roi, p, false, false);
        for (int ph = 0; ph < p.pooled_h; ++ph, planes += p.pooled_w) {
          if (grid.rows[ph].inside)
            forward_rows(blocked.plane(roi.image, block), p.width, grid.rows[ph], grid.columns.data(), p.pooled_w,
                         tile.data());
          else
            std::fill(tile.begin(), tile.end(), T(0));
          for (int lane = 0; lane < count; ++lane)
            for (int pw = 0; pw < p.pooled_w; ++pw) planes[lane * p.bins() + pw] = tile[pw * kBlock + lane];
        }
      }
    });
  });
  return top;
}

Tensor backward_features(const Tensor& grad_, const Tensor& rois_, int64_t images, int64_t height, int64_t width,
                         bool exact) {
  const Pooling p = pooling_of_gradient(grad_, rois_, images, height, width);
  const Tensor grad = dense(grad_), rois = dense(rois_);
  Tensor result = empty(grad, {images, p.channels, height, width});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    if (result.numel() == 0) return;
    std::vector<Roi<T>> parsed;
    std::vector<Grid<T>> grids;
    for (int r = 0; r < p.rois; ++r) {
      parsed.push_back(read_roi(in<T>(rois) + int64_t{r} * 5, p.images));
      grids.emplace_back(parsed.back(), p, true, exact);
    }
    const Blocked<T> blocked(p.images, p.channels, p.cells());
    torch::stable::parallel_for(0, int64_t{p.images} * blocked.blocks, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> tile(static_cast<size_t>(p.pooled_w) * kBlock);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / blocked.blocks, block = i % blocked.blocks;
        T* plane = blocked.plane(image, block);
        std::fill(plane, plane + blocked.cells * kBlock, T(0));
        for (int64_t r = 0; r < p.rois; ++r) {
          if (parsed[r].image != image) continue;
          const T* from = in<T>(grad) + (r * p.channels + block * kBlock) * p.bins();
          for (int ph = 0; ph < p.pooled_h; ++ph, from += p.pooled_w) {
            if (!grids[r].rows[ph].inside) continue;
            load_tile(from, p.bins(), p.pooled_w, blocked.valid(block), tile.data());
            backward_rows(plane, p.width, grids[r].rows[ph], grids[r].columns.data(), p.pooled_w, tile.data());
          }
        }
        blocked.store(image, block, out<T>(result));
      }
    });
  });
  return result;
}

// The published coordinate gradient of the samples outside the map; see ForeignSample.
template <typename T>
void foreign_coordinates(const Pooling& p, const Grid<T>& grid, const WarpAxis<T>& y, const WarpAxis<T>& x,
                         const T* grad, const T* features, int image, double* sums) {
  std::vector<int> outside;
  for (int ph = 0; ph < p.pooled_h; ++ph)
    for (int pw = 0; pw < p.pooled_w; ++pw)
      if (!(grid.rows[ph].inside && grid.columns[pw].inside)) outside.push_back(ph * p.pooled_w + pw);
  if (outside.empty()) return;
  double dx = 0, dy = 0;
  for (int64_t c = 0; c < p.channels; ++c, grad += p.bins()) {
    const ForeignSample<T> foreign(features, (int64_t{image} * p.channels + c) * p.cells(), p.width);
    double total = 0;
    for (int bin : outside) total += grad[bin];
    dx += total * foreign.dx;
    dy += total * foreign.dy;
  }
  T y_start, y_end, x_start, x_end;
  y.published_motion(T(-1), y_start, y_end);
  x.published_motion(T(-1), x_start, x_end);
  sums[0] = x_start * dx;
  sums[1] = y_start * dy;
  sums[2] = x_end * dx;
  sums[3] = y_end * dy;
}

Tensor backward_rois(const Tensor& grad_, const Tensor& features_, const Tensor& rois_, bool exact) {
  const Pooling p = pooling_of_gradient(grad_, features_, rois_);
  const Tensor grad = dense(grad_), features = dense(features_), rois = dense(rois_);
  Tensor result = zeros(rois, {p.rois, 5});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    if (grad.numel() == 0) return;
    Blocked<T> blocked(p.images, p.channels, p.cells());
    blocked.load(in<T>(features));
    // One sum per block of channels, RoI and coordinate, so that a block stays in the cache for all RoIs.
    std::vector<double> partial(static_cast<size_t>(blocked.blocks) * p.rois * 4, 0.0);
    torch::stable::parallel_for(0, int64_t{blocked.blocks} * p.rois, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> tile(static_cast<size_t>(p.pooled_w) * kBlock);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i / p.rois, r = i % p.rois;
        const Roi<T> roi = read_roi(in<T>(rois) + r * 5, p.images);
        if (roi.image < 0) continue;
        const Grid<T> grid(roi, p, false, exact);
        const auto y = rows_of(roi, p.pooled_h, p.height);
        const auto x = columns_of(roi, p.pooled_w, p.width);
        double sums[4 * kBlock] = {};
        const T* from = in<T>(grad) + (r * p.channels + block * kBlock) * p.bins();
        for (int ph = 0; ph < p.pooled_h; ++ph, from += p.pooled_w) {
          load_tile(from, p.bins(), p.pooled_w, blocked.valid(block), tile.data());
          coordinate_rows(blocked.plane(roi.image, block), p.width, y, x, ph, grid.rows[ph], grid.columns.data(), exact,
                          tile.data(), sums);
        }
        for (int k = 0; k < 4; ++k)
          for (int lane = 0; lane < kBlock; ++lane) partial[i * 4 + k] += sums[k * kBlock + lane];
      }
    });
    torch::stable::parallel_for(0, p.rois, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const Roi<T> roi = read_roi(in<T>(rois) + r * 5, p.images);
        double sums[4] = {};
        if (roi.image >= 0 && !exact)
          foreign_coordinates(p, Grid<T>(roi, p, false, false), rows_of(roi, p.pooled_h, p.height),
                              columns_of(roi, p.pooled_w, p.width), in<T>(grad) + r * p.channels * p.bins(),
                              in<T>(features), roi.image, sums);
        for (int k = 0; k < 4; ++k) {
          for (int64_t block = 0; block < blocked.blocks; ++block) sums[k] += partial[(block * p.rois + r) * 4 + k];
          out<T>(result)[r * 5 + 1 + k] = static_cast<T>(sums[k]);
        }
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("roi_warping", TORCH_BOX(&forward));
  m.impl("roi_warping_backward_features", TORCH_BOX(&backward_features));
  m.impl("roi_warping_backward_rois", TORCH_BOX(&backward_rois));
}

}  // namespace caffe_bridge
