// Local response normalisation across channels on the CPU: a few cells of all channels at a time, which stay in cache,
// or one cell where its channels lie side by side.
#include <algorithm>
#include <cmath>
#include <vector>

#include "tensors.h"

namespace caffe_bridge {
namespace {

// Cells of a plane that are worked on at once.
constexpr int kCells = 256;

struct Normalization {
  int images, channels, size;
  int64_t cells;
  double alpha, beta, k;

  int64_t chunks() const { return (cells + kCells - 1) / kCells; }
};

Normalization normalization(const Tensor& images, int64_t size, double alpha, double beta, double k) {
  STD_TORCH_CHECK(images.dim() == 4, "images must be (N, C, H, W)");
  STD_TORCH_CHECK(size > 0 && size % 2 == 1, "the number of channels must be odd");
  const int channels = axis(images.size(1));
  // A window of twice the channels covers them all from everywhere; alpha is per cell of the window that was asked for.
  const int64_t covering = smaller<int64_t>(size, 2 * int64_t{channels} + 1);
  return {axis(images.size(0)),           channels, axis(covering), images.size(2) * images.size(3),
          alpha / static_cast<double>(size), beta,     k};
}

// base^-beta.
template <typename T>
CB_HD void power(const T* base, int count, T* result, double beta) {
  if (beta == 0.75) {
    for (int i = 0; i < count; ++i) {
      const T root = std::sqrt(base[i]);
      result[i] = T(1) / (root * std::sqrt(root));
    }
  } else {
    for (int i = 0; i < count; ++i) result[i] = std::pow(base[i], T(-beta));
  }
}

// sum[i] = the sum of column i over `size` rows from `rows` on, which begin `step` apart.
template <typename T>
CB_HD void sum_rows(const T* rows, int step, int count, int size, T* sum) {
  std::copy(rows, rows + count, sum);
  for (int r = 1; r < size; ++r)
    for (int i = 0; i < count; ++i) sum[i] += rows[r * step + i];
}

// Rows of kCells values: `rows` has size / 2 rows of zeros before and behind those of the channels.
template <typename T>
struct Rows {
  std::vector<T> padded, factors, values, grads, ratios;

  Rows(const Normalization& n, bool backward)
      : padded(static_cast<size_t>(n.channels + n.size - 1) * kCells),
        factors(backward ? static_cast<size_t>(n.channels) * kCells : kCells),
        values(static_cast<size_t>(n.channels) * kCells),
        grads(backward ? values.size() : 0),
        ratios(grads.size()) {}
};

template <typename T>
CB_HD void load(const T* image, int64_t cells, int count, int channels, T* rows) {
  for (int c = 0; c < channels; ++c) {
    std::copy(image + c * cells, image + c * cells + count, rows + c * kCells);
    std::fill(rows + c * kCells + count, rows + (c + 1) * kCells, T(0));
  }
}

template <typename T>
CB_HD void square(const Normalization& n, const T* values, T* rows) {
  for (int j = 0; j < n.channels * kCells; ++j) rows[j] = values[j] * values[j];
}

template <typename T>
CB_HD void scale(const Normalization& n, int count, T* sum) {
  for (int i = 0; i < count; ++i) sum[i] = T(n.k) + T(n.alpha) * sum[i];
}

template <typename T>
CB_HD void normalize_cells(const Normalization& n, const T* image, int count, T* top, Rows<T>& rows) {
  T* squares = rows.padded.data() + n.size / 2 * kCells;
  load(image, n.cells, count, n.channels, rows.values.data());
  square(n, rows.values.data(), squares);
  T sum[kCells], result[kCells];
  for (int c = 0; c < n.channels; ++c) {
    sum_rows(rows.padded.data() + c * kCells, kCells, kCells, n.size, sum);
    scale(n, kCells, sum);
    power(sum, kCells, rows.factors.data(), n.beta);
    for (int i = 0; i < kCells; ++i) result[i] = rows.values[c * kCells + i] * rows.factors[i];
    std::copy(result, result + count, top + c * n.cells);
  }
}

CB_CLONES void normalize(const Normalization& n, const float* image, int count, float* top, Rows<float>& rows) {
  normalize_cells(n, image, count, top, rows);
}

CB_CLONES void normalize(const Normalization& n, const double* image, int count, double* top, Rows<double>& rows) {
  normalize_cells(n, image, count, top, rows);
}

// Cells whose channels lie side by side: `squares` has size / 2 zeros before and behind its channels.
template <typename T>
CB_HD void normalize_side_by_side(const Normalization& n, const T* cells, int64_t count, T* top, T* squares, T* sum) {
  for (int64_t cell = 0; cell < count; ++cell) {
    const T* values = cells + cell * n.channels;
    T* result = top + cell * n.channels;
    for (int c = 0; c < n.channels; ++c) squares[n.size / 2 + c] = values[c] * values[c];
    sum_rows(squares, 1, n.channels, n.size, sum);
    scale(n, n.channels, sum);
    power(sum, n.channels, result, n.beta);
    for (int c = 0; c < n.channels; ++c) result[c] *= values[c];
  }
}

CB_CLONES void normalize_last(const Normalization& n, const float* cells, int64_t count, float* top, float* squares,
                              float* sum) {
  normalize_side_by_side(n, cells, count, top, squares, sum);
}

CB_CLONES void normalize_last(const Normalization& n, const double* cells, int64_t count, double* top, double* squares,
                              double* sum) {
  normalize_side_by_side(n, cells, count, top, squares, sum);
}

// Images in torch's memory format channels_last, made with the result in the same format.
Tensor forward_channels_last(const Tensor& images, const Normalization& n) {
  Tensor top = torch::stable::empty_like(images);
  by_dtype(images, [&](auto zero) {
    using T = decltype(zero);
    torch::stable::parallel_for(0, n.images * n.cells, 256, [&](int64_t begin, int64_t end) {
      std::vector<T> squares(static_cast<size_t>(n.channels) + n.size - 1, T(0)), sum(n.channels);
      const int64_t first = begin * n.channels;
      normalize_last(n, in<T>(images) + first, end - begin, out<T>(top) + first, squares.data(), sum.data());
    });
  });
  return top;
}

// With s the normalizer, the gradient is g s^-b - 2 alpha b x sum(g x s^(-b - 1)), the sum over the window.
template <typename T>
CB_HD void gradient_of_cells(const Normalization& n, const T* image, const T* grad, int count, T* result, Rows<T>& rows) {
  const int begin = n.size / 2 * kCells;
  T *values = rows.values.data(), *grads = rows.grads.data(), *padded = rows.padded.data();
  load(image, n.cells, count, n.channels, values);
  load(grad, n.cells, count, n.channels, grads);
  square(n, values, padded + begin);
  T *factors = rows.factors.data(), *ratios = rows.ratios.data();
  T sum[kCells], shared[kCells];
  for (int c = 0; c < n.channels; ++c) {
    sum_rows(padded + c * kCells, kCells, kCells, n.size, sum);
    scale(n, kCells, sum);
    power(sum, kCells, factors + c * kCells, n.beta);
    for (int i = 0; i < kCells; ++i) {
      const int j = c * kCells + i;
      ratios[j] = grads[j] * values[j] * factors[j] / sum[i];
    }
  }
  std::copy(ratios, ratios + n.channels * kCells, padded + begin);
  const T weight = T(2 * n.alpha * n.beta);
  for (int c = 0; c < n.channels; ++c) {
    sum_rows(padded + c * kCells, kCells, kCells, n.size, sum);
    for (int i = 0; i < kCells; ++i) {
      const int j = c * kCells + i;
      shared[i] = grads[j] * factors[j] - weight * values[j] * sum[i];
    }
    std::copy(shared, shared + count, result + c * n.cells);
  }
}

CB_CLONES void gradient(const Normalization& n, const float* image, const float* grad, int count, float* result,
                        Rows<float>& rows) {
  gradient_of_cells(n, image, grad, count, result, rows);
}

CB_CLONES void gradient(const Normalization& n, const double* image, const double* grad, int count, double* result,
                        Rows<double>& rows) {
  gradient_of_cells(n, image, grad, count, result, rows);
}

// work(first element of the chunk, its cells, rows to work in) for all chunks of all images.
template <typename T, typename Work>
void for_each_chunk(const Normalization& n, bool backward, const Work& work) {
  torch::stable::parallel_for(0, n.images * n.chunks(), 1, [&](int64_t begin, int64_t end) {
    Rows<T> rows(n, backward);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t cell = i % n.chunks() * kCells;
      work(i / n.chunks() * n.channels * n.cells + cell, static_cast<int>(smaller<int64_t>(kCells, n.cells - cell)), rows);
    }
  });
}

Tensor forward(const Tensor& images_, int64_t size, double alpha, double beta, double k) {
  const Normalization n = normalization(images_, size, alpha, beta, k);
  if (is_channels_last(images_)) return forward_channels_last(images_, n);
  const Tensor images = dense(images_);
  Tensor top = empty(images, {images.size(0), images.size(1), images.size(2), images.size(3)});
  by_dtype(images, [&](auto zero) {
    using T = decltype(zero);
    for_each_chunk<T>(n, false, [&](int64_t first, int count, Rows<T>& rows) {
      normalize(n, in<T>(images) + first, count, out<T>(top) + first, rows);
    });
  });
  return top;
}

Tensor backward(const Tensor& grad_, const Tensor& images_, int64_t size, double alpha, double beta, double k) {
  const Normalization n = normalization(images_, size, alpha, beta, k);
  check_same(grad_, images_, "gradient and images");
  check_shape(grad_, {images_.size(0), images_.size(1), images_.size(2), images_.size(3)}, "the gradient");
  const Tensor grad = dense(grad_), images = dense(images_);
  Tensor result = empty(images, {images.size(0), images.size(1), images.size(2), images.size(3)});
  by_dtype(images, [&](auto zero) {
    using T = decltype(zero);
    for_each_chunk<T>(n, true, [&](int64_t first, int count, Rows<T>& rows) {
      gradient(n, in<T>(images) + first, in<T>(grad) + first, count, out<T>(result) + first, rows);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("lrn", TORCH_BOX(&forward));
  m.impl("lrn_backward", TORCH_BOX(&backward));
}

}  // namespace caffe_bridge
