// Non-maximum suppression on the CPU: each kept box is compared with all later ones in one vector loop.
#include "nms.h"

#include <vector>

#include "tensors.h"

namespace caffe_bridge {
namespace {

// Boxes by coordinate, `suppressed` as wide as a coordinate so that the loop stays in one vector width.
template <typename T>
struct Columns {
  std::vector<T> x1, y1, x2, y2, area;

  explicit Columns(const T* boxes, int64_t count) : x1(count), y1(count), x2(count), y2(count), area(count) {
    for (int64_t i = 0; i < count; ++i) {
      const T* box = boxes + i * 4;
      x1[i] = box[0], y1[i] = box[1], x2[i] = box[2], y2[i] = box[3];
      area[i] = box_area(box[0], box[1], box[2], box[3]);
    }
  }
};

template <typename T, typename Flag>
CB_HD void suppress_later(const T* x1, const T* y1, const T* x2, const T* y2, const T* area, int64_t kept,
                          int64_t count, T least, Flag* suppressed) {
  for (int64_t j = kept + 1; j < count; ++j) {
    const T width = larger(smaller(x2[kept], x2[j]) - larger(x1[kept], x1[j]) + T(1), T(0));
    const T height = larger(smaller(y2[kept], y2[j]) - larger(y1[kept], y1[j]) + T(1), T(0));
    const T both = width * height;
    suppressed[j] |= both / (area[kept] + area[j] - both) >= least;
  }
}

CB_CLONES void suppress(const float* x1, const float* y1, const float* x2, const float* y2, const float* area,
                        int64_t kept, int64_t count, float least, int32_t* suppressed) {
  suppress_later(x1, y1, x2, y2, area, kept, count, least, suppressed);
}

CB_CLONES void suppress(const double* x1, const double* y1, const double* x2, const double* y2, const double* area,
                        int64_t kept, int64_t count, double least, int64_t* suppressed) {
  suppress_later(x1, y1, x2, y2, area, kept, count, least, suppressed);
}

template <typename T>
void select(const T* boxes, int64_t count, T least, bool* keep) {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  const Columns<T> b(boxes, count);
  std::vector<Flag> suppressed(count, 0);
  for (int64_t i = 0; i < count; ++i) {
    keep[i] = !suppressed[i];
    if (keep[i])
      suppress(b.x1.data(), b.y1.data(), b.x2.data(), b.y2.data(), b.area.data(), i, count, least, suppressed.data());
  }
}

Tensor nms(const Tensor& boxes_, double threshold, bool inclusive) {
  STD_TORCH_CHECK(boxes_.dim() == 2 && boxes_.size(1) == 4, "boxes must be (n, 4)");
  const Tensor boxes = dense(boxes_);
  Tensor keep = empty(boxes, {boxes.size(0)}, ScalarType::Bool);
  by_dtype(boxes, [&](auto zero) {
    using T = decltype(zero);
    select(in<T>(boxes), boxes.size(0), least_suppressing<T>(threshold, inclusive), out<bool>(keep));
  });
  return keep;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
}

}  // namespace caffe_bridge
