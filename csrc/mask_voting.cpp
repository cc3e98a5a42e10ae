// Mask merging on the CPU, one group at a time; memory is one strip of the group's extent, never whole images.
#include "mask_voting.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace caffe_bridge {
namespace {

constexpr int64_t kStripPixels = 1 << 16;

// Rows [y0, y1] and columns [x0, x1] of the image.
struct Region {
  int x0, y0, x1, y1;

  int columns() const { return x1 - x0 + 1; }
  int rows() const { return y1 - y0 + 1; }
};

// Where the columns of a drawn mask's box fall in the mask: `cells` and the fraction of the way to the next one.
template <typename T>
struct ColumnTable {
  int first = 0;
  std::vector<int32_t> cells;
  std::vector<T> fractions;

  void fill(const Drawn<T>& drawn, int x0, int x1) {
    first = x0;
    while (first <= x1 && !drawn.has_column(first)) ++first;
    cells.clear();
    fractions.clear();
    for (int x = first; x <= x1 && drawn.has_column(x); ++x) {
      const T position = drawn.column(x);
      cells.push_back(clipped(position, drawn.size - 1));
      fractions.push_back(position - T(cells.back()));
    }
  }
};

// to[i] += weight * the value between mask rows `at` and `below`, as Drawn::value away from the last row and column.
template <typename T>
CB_HD void interpolate(const T* at, const T* below, T dy, const int32_t* cells, const T* fractions, int64_t count,
                       T weight, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t x = cells[i];
    const T dx = fractions[i];
    to[i] += ((T(1) - dx) * (T(1) - dy) * at[x] + dx * (T(1) - dy) * at[x + 1] + (T(1) - dx) * dy * below[x] +
              dx * dy * below[x + 1]) *
             weight;
  }
}

CB_CLONES void interpolate_row(const float* at, const float* below, float dy, const int32_t* cells,
                               const float* fractions, int64_t count, float weight, float* to) {
  interpolate(at, below, dy, cells, fractions, count, weight, to);
}

CB_CLONES void interpolate_row(const double* at, const double* below, double dy, const int32_t* cells,
                               const double* fractions, int64_t count, double weight, double* to) {
  interpolate(at, below, dy, cells, fractions, count, weight, to);
}

// Adds the part of a drawn mask that lies in `strip` to `sums`; `table` is scratch space.
template <typename T>
void add(const Drawn<T>& drawn, T weight, const Region& strip, T* sums, ColumnTable<T>& table) {
  if (!drawn.drawable()) return;
  table.fill(drawn, strip.x0, strip.x1);
  const int last = drawn.size - 1;
  const int64_t columns = static_cast<int64_t>(table.cells.size());
  const int64_t inner = std::lower_bound(table.cells.begin(), table.cells.end(), last) - table.cells.begin();
  for (int y = strip.y0; y <= strip.y1; ++y) {
    if (!drawn.has_row(y)) continue;
    const T position = drawn.row(y);
    const int cell = clipped(position, last);
    const T* at = drawn.mask + int64_t{cell} * drawn.size;
    T* to = sums + int64_t{y - strip.y0} * strip.columns() + (table.first - strip.x0);
    const int64_t mixed = cell < last ? inner : 0;
    interpolate_row(at, at + drawn.size, position - T(cell), table.cells.data(), table.fractions.data(), mixed, weight,
                    to);
    for (int64_t i = mixed; i < columns; ++i) to[i] += at[table.cells[i]] * weight;
  }
}

// The tight box of the group's pixels above the threshold; the image's centre when there is none.
template <typename T>
void tight_box(const Group<T>& group, int height, int width, T threshold, int32_t* box) {
  Region extent, found{width, height, -1, -1};
  group.extent(height, width, extent.x0, extent.y0, extent.x1, extent.y1);
  if (extent.x0 <= extent.x1 && extent.y0 <= extent.y1) {
    const int rows = static_cast<int>(std::max<int64_t>(1, kStripPixels / extent.columns()));
    std::vector<T> sums;
    ColumnTable<T> table;
    for (int y0 = extent.y0; y0 <= extent.y1; y0 += rows) {
      const Region strip{extent.x0, y0, extent.x1, std::min(y0 + rows - 1, extent.y1)};
      sums.assign(static_cast<size_t>(strip.columns()) * strip.rows(), T(0));
      for (int64_t i = group.begin; i < group.end; ++i)
        add(group.drawn(i), group.weights[i], strip, sums.data(), table);
      const T* value = sums.data();
      for (int y = strip.y0; y <= strip.y1; ++y)
        for (int x = strip.x0; x <= strip.x1; ++x, ++value)
          if (*value > threshold)
            found = {std::min(found.x0, x), std::min(found.y0, y), std::max(found.x1, x), y};
    }
  }
  if (found.x1 < 0) found = {width / 2, height / 2, width / 2, height / 2};
  box[0] = found.x0, box[1] = found.y0, box[2] = found.x1, box[3] = found.y1;
}

std::tuple<Tensor, Tensor> merge_masks(const Tensor& boxes, const Tensor& masks, const Tensor& members,
                                       const Tensor& ends, const Tensor& weights, int64_t height, int64_t width,
                                       double threshold) {
  const Merge m(boxes, masks, members, ends, weights, height, width);
  by_dtype(m.boxes, [&](auto zero) {
    using T = decltype(zero);
    const Members<T> all = m.all<T>();
    torch::stable::parallel_for(0, m.groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Group<T> group(all, i);
        int32_t* box = out<int32_t>(m.tight) + i * 4;
        T* merged = out<T>(m.merged) + i * m.size * m.size;
        tight_box(group, m.height, m.width, static_cast<T>(threshold), box);
        for (int h = 0; h < m.size; ++h)
          for (int w = 0; w < m.size; ++w) *merged++ = group.resized(box, h, w, m.height, m.width);
      }
    });
  });
  return {m.merged, m.tight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("merge_masks", TORCH_BOX(&merge_masks));
}

}  // namespace caffe_bridge
