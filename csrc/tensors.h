// Host-side handling of torch::stable::Tensor: checks that keep a kernel inside its memory, allocation, dtypes.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "common.h"

namespace caffe_bridge {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

inline Tensor dense(const Tensor& tensor) {
  return torch::stable::contiguous(tensor);
}

// Whether the values of (N, C, H, W) lie densely in the order N, H, W, C, and in no other.
inline bool is_channels_last(const Tensor& images) {
  const int64_t channels = images.size(1), width = images.size(3);
  return channels > 1 && images.stride(1) == 1 && images.stride(3) == channels &&
         images.stride(2) == width * channels && images.stride(0) == images.size(2) * width * channels;
}

inline Optional dense(const Optional& tensor) {
  return tensor ? Optional(torch::stable::contiguous(*tensor)) : std::nullopt;
}

inline Tensor empty(const Tensor& like, std::vector<int64_t> shape, std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, shape, dtype);
}

inline Tensor zeros(const Tensor& like, std::vector<int64_t> shape, std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_zeros(like, shape, dtype);
}

// The typed data of a tensor the caller has checked with `by_dtype` or `check_same`.
template <typename T>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
const T* in(const Optional& tensor) {
  return tensor ? in<T>(*tensor) : nullptr;
}

template <typename T>
T* out(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Calls f(T{}) with T the tensor's element type.
template <typename F>
auto by_dtype(const Tensor& tensor, const F& f) {
  if (tensor.scalar_type() == ScalarType::Float) return f(float{});
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double, "caffe_bridge kernels take float32 and float64 only");
  return f(double{});
}

inline void check_same(const Tensor& a, const Tensor& b, const char* what) {
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), what, ": the tensors have different dtypes");
  STD_TORCH_CHECK(a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index(), what,
                  ": the tensors are on different devices");
}

inline void check_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* what) {
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  for (int64_t size : shape) same = same && tensor.size(axis++) == size;
  STD_TORCH_CHECK(same, what, " has an unexpected shape");
}

// An axis length that fits the 32-bit coordinates the kernels count cells with.
inline int axis(int64_t size) {
  STD_TORCH_CHECK(size >= 0 && size < (int64_t{1} << 30), "axis of ", size, " elements is out of range");
  return static_cast<int>(size);
}

// Shape of a pooling problem: features (images, channels, height, width), RoIs (rois, 5), bins per axis.
struct Pooling {
  int images, channels, height, width, rois, pooled_h, pooled_w;

  CB_HD int64_t cells() const { return int64_t{height} * width; }
  CB_HD int64_t bins() const { return int64_t{pooled_h} * pooled_w; }
};

inline Pooling pooling(const Tensor& rois, int64_t images, int64_t channels, int64_t height, int64_t width,
                       int64_t pooled_h, int64_t pooled_w) {
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5, "RoIs must be (R, 5)");
  STD_TORCH_CHECK(pooled_h > 0 && pooled_w > 0, "the pooled size must be positive");
  return {axis(images), axis(channels), axis(height), axis(width), axis(rois.size(0)), axis(pooled_h), axis(pooled_w)};
}

inline Pooling pooling(const Tensor& features, const Tensor& rois, int64_t pooled_h, int64_t pooled_w) {
  STD_TORCH_CHECK(features.dim() == 4, "features must be (N, C, H, W)");
  check_same(features, rois, "features and RoIs");
  return pooling(rois, features.size(0), features.size(1), features.size(2), features.size(3), pooled_h, pooled_w);
}

}  // namespace caffe_bridge
