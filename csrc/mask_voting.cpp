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

// Adds the part of a drawn mask that lies in `strip` to `sums`; `positions` is scratch space.
template <typename T>
void add(const Drawn<T>& drawn, T weight, const Region& strip, T* sums, std::vector<T>& positions) {
  if (!drawn.drawable()) return;
  int first = strip.x0, last = strip.x1;
  while (first <= last && !drawn.has_column(first)) ++first;
  while (last >= first && !drawn.has_column(last)) --last;
  positions.clear();
  for (int x = first; x <= last; ++x) positions.push_back(drawn.column(x));
  for (int y = strip.y0; y <= strip.y1; ++y) {
    if (!drawn.has_row(y)) continue;
    const T fy = drawn.row(y);
    T* row = sums + int64_t{y - strip.y0} * strip.columns() + (first - strip.x0);
    for (size_t i = 0; i < positions.size(); ++i) row[i] += drawn.value(positions[i], fy) * weight;
  }
}

// The tight box of the group's pixels above the threshold; the image's centre when there is none.
template <typename T>
void tight_box(const Group<T>& group, int height, int width, T threshold, int32_t* box) {
  Region extent, found{width, height, -1, -1};
  group.extent(height, width, extent.x0, extent.y0, extent.x1, extent.y1);
  if (extent.x0 <= extent.x1 && extent.y0 <= extent.y1) {
    const int rows = static_cast<int>(std::max<int64_t>(1, kStripPixels / extent.columns()));
    std::vector<T> sums, positions;
    for (int y0 = extent.y0; y0 <= extent.y1; y0 += rows) {
      const Region strip{extent.x0, y0, extent.x1, std::min(y0 + rows - 1, extent.y1)};
      sums.assign(static_cast<size_t>(strip.columns()) * strip.rows(), T(0));
      for (int64_t i = group.begin; i < group.end; ++i)
        add(group.drawn(i), group.weights[i], strip, sums.data(), positions);
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
