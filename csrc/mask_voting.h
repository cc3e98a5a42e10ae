// The arithmetic of MNC's mask merging: a mask drawn into its box, groups of drawn masks summed with weights, the
// tight box of what exceeds the threshold, and that box resized back to the mask's size.
#pragma once

#include "common.h"
#include "tensors.h"

namespace caffe_bridge {

// A mask of size x size values drawn into a box of original-image pixels; no half-pixel offset.
template <typename T>
struct Drawn {
  const T* box;
  const T* mask;
  int size;

  CB_HD bool drawable() const {
    return box && is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
  }
  CB_HD bool has_column(int x) const { return T(x) >= box[0] && T(x) <= box[2]; }
  CB_HD bool has_row(int y) const { return T(y) >= box[1] && T(y) <= box[3]; }

  // Position in the mask of an image column that `has_column`, and of a row that `has_row`.
  CB_HD T column(int x) const { return (T(x) - box[0]) * (T(size) / (box[2] - box[0] + T(1))); }
  CB_HD T row(int y) const { return (T(y) - box[1]) * (T(size) / (box[3] - box[1] + T(1))); }

  // The value at mask position (fx, fy), both >= 0; the last row and column are taken without interpolation.
  CB_HD T value(T fx, T fy) const {
    const int x = clipped(fx, size - 1), y = clipped(fy, size - 1);
    const T* at = mask + int64_t{y} * size + x;
    if (x == size - 1 || y == size - 1) return at[0];
    const T dx = fx - T(x), dy = fy - T(y);
    return (T(1) - dx) * (T(1) - dy) * at[0] + dx * (T(1) - dy) * at[1] + (T(1) - dx) * dy * at[size] +
           dx * dy * at[size + 1];
  }
};

// Everything that is summed: n boxes with their masks, and the members of all groups, one group after the other.
template <typename T>
struct Members {
  const T *boxes, *masks, *weights;
  const int64_t *members, *ends;
  int64_t boxes_count, members_count;
  int size;
};

// The members [begin, end) of one group. A member that names no box draws nothing.
template <typename T>
struct Group : Members<T> {
  int64_t begin, end;

  CB_HD Group(const Members<T>& all, int64_t i) : Members<T>(all) {
    begin = i > 0 ? larger<int64_t>(all.ends[i - 1], 0) : 0;
    end = smaller(all.ends[i], all.members_count);
  }

  CB_HD Drawn<T> drawn(int64_t i) const {
    const int64_t member = this->members[i];
    const bool known = member >= 0 && member < this->boxes_count;
    return {known ? this->boxes + member * 4 : nullptr, this->masks + (known ? member : 0) * this->size * this->size,
            this->size};
  }

  // The weighted sum at one pixel, in the order of the list.
  CB_HD T at(int x, int y) const {
    T sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      const Drawn<T> d = drawn(i);
      if (d.drawable() && d.has_column(x) && d.has_row(y)) sum += d.value(d.column(x), d.row(y)) * this->weights[i];
    }
    return sum;
  }

  // Pixels outside [x0, x1] x [y0, y1] are 0; empty (x0 > x1) when nothing is drawn inside the image.
  CB_HD void extent(int height, int width, int& x0, int& y0, int& x1, int& y1) const {
    x0 = width, y0 = height, x1 = y1 = -1;
    for (int64_t i = begin; i < end; ++i) {
      const Drawn<T> d = drawn(i);
      if (!d.drawable() || d.box[2] < T(0) || d.box[3] < T(0) || d.box[0] > T(width - 1) || d.box[1] > T(height - 1))
        continue;
      x0 = smaller(x0, clipped(std::ceil(d.box[0]), width - 1));
      y0 = smaller(y0, clipped(std::ceil(d.box[1]), height - 1));
      x1 = larger(x1, clipped(std::floor(d.box[2]), width - 1));
      y1 = larger(y1, clipped(std::floor(d.box[3]), height - 1));
    }
  }

  // Value h, w of the tight box (x1, y1, x2, y2) resized to size x size.
  CB_HD T resized(const int32_t* box, int h, int w, int height, int width) const {
    const T fx = T(box[0]) + T(w) * ((T(box[2]) - T(box[0]) + T(1)) / T(this->size));
    const T fy = T(box[1]) + T(h) * ((T(box[3]) - T(box[1]) + T(1)) / T(this->size));
    const int x = clipped(fx, width - 1), y = clipped(fy, height - 1);
    if (x == width - 1 || y == height - 1) return at(x, y);
    const T dx = fx - T(x), dy = fy - T(y);
    return (T(1) - dx) * (T(1) - dy) * at(x, y) + dx * (T(1) - dy) * at(x + 1, y) +
           (T(1) - dx) * dy * at(x, y + 1) + dx * dy * at(x + 1, y + 1);
  }
};

// The checked, dense arguments of `merge_masks` and its outputs.
struct Merge {
  Tensor boxes, masks, members, ends, weights, merged, tight;
  int size, height, width;
  int64_t groups;

  Merge(const Tensor& boxes_, const Tensor& masks_, const Tensor& members_, const Tensor& ends_,
        const Tensor& weights_, int64_t height_, int64_t width_)
      : boxes(dense(boxes_)), masks(dense(masks_)), members(dense(members_)), ends(dense(ends_)),
        weights(dense(weights_)), size(0), height(axis(height_)), width(axis(width_)), groups(ends_.numel()) {
    STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (n, 4)");
    STD_TORCH_CHECK(masks.dim() == 4 && masks.size(2) > 0, "masks must be (n, 1, M, M)");
    check_shape(masks, {boxes.size(0), 1, masks.size(2), masks.size(2)}, "masks");
    check_same(boxes, masks, "boxes and masks");
    check_same(boxes, weights, "boxes and weights");
    check_same(members, ends, "members and ends");
    STD_TORCH_CHECK(members.scalar_type() == ScalarType::Long && members.is_cuda() == boxes.is_cuda(),
                    "members and ends must be int64, with the boxes");
    check_shape(weights, {members.numel()}, "weights");
    STD_TORCH_CHECK(height > 0 && width > 0, "the image must not be empty");
    size = axis(masks.size(2));
    merged = empty(masks, {groups, 1, masks.size(2), masks.size(2)});
    tight = empty(masks, {groups, 4}, ScalarType::Int);
  }

  template <typename T>
  Members<T> all() const {
    return {in<T>(boxes),     in<T>(masks),  in<T>(weights),  in<int64_t>(members),
            in<int64_t>(ends), boxes.size(0), members.numel(), size};
  }
};

}  // namespace caffe_bridge
