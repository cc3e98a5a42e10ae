// Max pooling on the CPU: rows of a window are merged first, whole rows at a time, then columns.
#include <algorithm>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "tensors.h"

namespace caffe_bridge {
namespace {

struct Windows {
  int64_t planes;
  int height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w;

  int64_t cells() const { return int64_t{height} * width; }
  int64_t pooled() const { return int64_t{out_h} * out_w; }

  // Rows [first, last) of window row `oh`.
  void rows(int oh, int& first, int& last) const {
    const int64_t start = int64_t{oh} * stride_h - pad_h;
    first = static_cast<int>(smaller<int64_t>(larger<int64_t>(start, 0), height));
    last = static_cast<int>(smaller<int64_t>(larger<int64_t>(start + kernel_h, 0), height));
  }

  // Windows along a row that begin before its end; the ones behind them have no cell.
  int filled() const {
    return static_cast<int>(smaller<int64_t>(out_w, (int64_t{width} + pad_w + stride_w - 1) / stride_w));
  }

  // Cells of a row together with what its windows reach before and behind it.
  int64_t reach() const {
    return larger<int64_t>(int64_t{pad_w} + width, (int64_t{filled()} - 1) * stride_w + kernel_w);
  }
};

Windows windows(const Tensor& images, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                int64_t pad_h, int64_t pad_w, int64_t out_h, int64_t out_w) {
  STD_TORCH_CHECK(images.dim() == 4, "images must be (N, C, H, W)");
  STD_TORCH_CHECK(kernel_h > 0 && kernel_w > 0 && stride_h > 0 && stride_w > 0 && pad_h >= 0 && pad_w >= 0,
                  "kernel and stride must be positive, pad not negative");
  const int height = axis(images.size(2)), width = axis(images.size(3));
  axis(int64_t{height} * width);
  // No window begins before -pad, so that a kernel of the image and its padding reaches as far as any larger one.
  kernel_h = smaller(kernel_h, height + pad_h);
  kernel_w = smaller(kernel_w, width + pad_w);
  return {images.size(0) * images.size(1), height, width, axis(kernel_h), axis(kernel_w), axis(stride_h),
          axis(stride_w), axis(pad_h), axis(pad_w), axis(out_h), axis(out_w)};
}

// Columns are merged by kernel and stride known to the compiler where they are the usual ones.
template <typename F>
CB_HD void by_window(int kernel, int stride, const F& merge) {
  if (kernel == 2 && stride == 2) return merge(std::integral_constant<int, 2>{}, std::integral_constant<int, 2>{});
  if (kernel == 3 && stride == 2) return merge(std::integral_constant<int, 3>{}, std::integral_constant<int, 2>{});
  if (kernel == 3 && stride == 1) return merge(std::integral_constant<int, 3>{}, std::integral_constant<int, 1>{});
  merge(kernel, stride);
}

// The larger one; NaN wins over everything.
template <typename T>
CB_HD T merged(T best, T value) {
  return (value > best) | (value != value) ? value : best;
}

template <typename T>
CB_HD void merge_row(T* best, const T* row, int count) {
  for (int i = 0; i < count; ++i) best[i] = merged(best[i], row[i]);
}

template <typename T>
CB_HD void merge_columns(const T* row, T* top, int count, int kernel_, int stride_) {
  by_window(kernel_, stride_, [&](auto kernel, auto stride) {
    for (int i = 0; i < count; ++i) {
      const T* first = row + int64_t{i} * stride;
      T best = first[0];
      for (int k = 1; k < kernel; ++k) best = merged(best, first[k]);
      top[i] = best;
    }
  });
}

// The same with the rows, and at last the cells, that the maxima are from.
template <typename T>
CB_HD void merge_row_at(T* best, int32_t* at, const T* row, int32_t h, int count) {
  for (int i = 0; i < count; ++i) {
    const bool more = (row[i] > best[i]) | (row[i] != row[i]);
    at[i] = more ? h : at[i];
    best[i] = more ? row[i] : best[i];
  }
}

// Of equal cells the one in the upper row is taken, in one row the first; `index` is y * width + x.
template <typename T>
CB_HD void merge_columns_at(const T* row, const int32_t* at, T* top, int32_t* index, const Windows& w, int count) {
  by_window(w.kernel_w, w.stride_w, [&](auto kernel, auto stride) {
    for (int i = 0; i < count; ++i) {
      const int32_t start = i * stride;
      T best = row[start];
      int32_t y = at[start], x = start;
      for (int k = 1; k < kernel; ++k) {
        const T value = row[start + k];
        const int32_t here = at[start + k];
        const bool more = (value > best) | ((value == best) & (here < y)) | (value != value);
        best = more ? value : best;
        y = more ? here : y;
        x = more ? start + k : x;
      }
      top[i] = best;
      index[i] = y * w.width + x - w.pad_w;
    }
  });
}

template <typename T>
CB_HD void fill_lowest(T* top, int32_t* index, int begin, int end) {
  std::fill(top + begin, top + end, T(kLowest));
  if (index) std::fill(index + begin, index + end, -1);
}

// A row of maxima of one plane. `buffer` and `at` are a row with what windows reach beyond its ends, which is below
// everything; `at` and `index` are null where nobody asks for them.
template <typename T>
CB_HD void pool_row(const Windows& w, const T* plane, int oh, T* buffer, int32_t* at, T* top, int32_t* index) {
  int h0, h1;
  w.rows(oh, h0, h1);
  if (h0 >= h1) return fill_lowest(top, index, 0, w.out_w);
  const int columns = w.filled();
  T* row = buffer + w.pad_w;
  std::copy(plane + int64_t{h0} * w.width, plane + int64_t{h0 + 1} * w.width, row);
  if (index) {
    std::fill(at + w.pad_w, at + w.pad_w + w.width, h0);
    for (int h = h0 + 1; h < h1; ++h) merge_row_at(row, at + w.pad_w, plane + int64_t{h} * w.width, h, w.width);
    merge_columns_at(buffer, at, top, index, w, columns);
  } else {
    for (int h = h0 + 1; h < h1; ++h) merge_row(row, plane + int64_t{h} * w.width, w.width);
    merge_columns(buffer, top, columns, w.kernel_w, w.stride_w);
  }
  fill_lowest(top, index, columns, w.out_w);
}

CB_CLONES void pool(const Windows& w, const float* plane, int oh, float* buffer, int32_t* at, float* top,
                    int32_t* index) {
  pool_row(w, plane, oh, buffer, at, top, index);
}

CB_CLONES void pool(const Windows& w, const double* plane, int oh, double* buffer, int32_t* at, double* top,
                    int32_t* index) {
  pool_row(w, plane, oh, buffer, at, top, index);
}

// The maxima of all planes, and where they are from if `index` is not null.
template <typename T>
void pool_planes(const Windows& w, const T* images, T* top, int32_t* index) {
  torch::stable::parallel_for(0, w.planes, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> buffer(w.reach(), -std::numeric_limits<T>::infinity());
    std::vector<int32_t> at(index ? w.reach() : 0, std::numeric_limits<int32_t>::max());
    for (int64_t i = begin; i < end; ++i)
      for (int oh = 0; oh < w.out_h; ++oh) {
        const int64_t first = i * w.pooled() + int64_t{oh} * w.out_w;
        pool(w, images + i * w.cells(), oh, buffer.data(), at.data(), top + first, index ? index + first : nullptr);
      }
  });
}

Tensor forward(const Tensor& images_, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
               int64_t pad_h, int64_t pad_w, int64_t out_h, int64_t out_w) {
  const Windows w = windows(images_, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w);
  const Tensor images = dense(images_);
  Tensor top = empty(images, {images.size(0), images.size(1), out_h, out_w});
  by_dtype(images, [&](auto zero) {
    using T = decltype(zero);
    pool_planes(w, in<T>(images), out<T>(top), nullptr);
  });
  return top;
}

std::tuple<Tensor, Tensor> forward_indices(const Tensor& images_, int64_t kernel_h, int64_t kernel_w, int64_t stride_h,
                                           int64_t stride_w, int64_t pad_h, int64_t pad_w, int64_t out_h,
                                           int64_t out_w) {
  const Windows w = windows(images_, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w);
  const Tensor images = dense(images_);
  Tensor top = empty(images, {images.size(0), images.size(1), out_h, out_w});
  Tensor index = empty(images, {images.size(0), images.size(1), out_h, out_w}, ScalarType::Int);
  by_dtype(images, [&](auto zero) {
    using T = decltype(zero);
    pool_planes(w, in<T>(images), out<T>(top), out<int32_t>(index));
  });
  return {top, index};
}

Tensor backward(const Tensor& grad_, const Tensor& index_, int64_t height, int64_t width) {
  STD_TORCH_CHECK(grad_.dim() == 4, "the gradient must be (N, C, h, w)");
  check_shape(index_, {grad_.size(0), grad_.size(1), grad_.size(2), grad_.size(3)}, "the index");
  STD_TORCH_CHECK(index_.scalar_type() == ScalarType::Int, "the index must be int32");
  const int64_t cells = axis(int64_t{axis(height)} * axis(width)), pooled = grad_.size(2) * grad_.size(3);
  const Tensor grad = dense(grad_), index = dense(index_);
  Tensor result = zeros(grad, {grad.size(0), grad.size(1), height, width});
  by_dtype(grad, [&](auto zero) {
    using T = decltype(zero);
    torch::stable::parallel_for(0, grad.size(0) * grad.size(1), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* plane = out<T>(result) + i * cells;
        const T* from = in<T>(grad) + i * pooled;
        const int32_t* at = in<int32_t>(index) + i * pooled;
        for (int64_t j = 0; j < pooled; ++j)
          if (at[j] >= 0 && at[j] < cells) plane[at[j]] += from[j];
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("max_pool", TORCH_BOX(&forward));
  m.impl("max_pool_indices", TORCH_BOX(&forward_indices));
  m.impl("max_pool_backward", TORCH_BOX(&backward));
}

}  // namespace caffe_bridge
