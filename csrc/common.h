// What every kernel shares: host/device marking, limits, and the one bilinear rule of Caffe's fork.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define CB_HD __host__ __device__ __forceinline__
#else
#define CB_HD inline __attribute__((always_inline))
#endif

// Marks a CPU function to be compiled once per instruction set and chosen when the library is loaded.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CB_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define CB_CLONES
#endif

namespace caffe_bridge {

// Channels are processed in blocks of this many on the CPU: one AVX-512 register of floats.
constexpr int kBlock = 16;

// The value Caffe starts a maximum from, in either precision.
constexpr float kLowest = -3.402823466e+38F;

template <typename T>
CB_HD bool is_finite(T value) {
  return value - value == T(0);
}

template <typename T>
CB_HD T larger(T a, T b) {
  return a > b ? a : b;
}

template <typename T>
CB_HD T smaller(T a, T b) {
  return a < b ? a : b;
}

// A float already known to be integral, brought into [0, limit] before it becomes an int.
template <typename T>
CB_HD int clipped(T value, int limit) {
  return value > T(0) ? static_cast<int>(smaller(value, T(limit))) : 0;
}

// One axis of a bilinear sample. `inside` is false where the fork's layers read nothing; `position` is the
// sample after clamping; `clamped` tells that moving the sample would not change the value.
template <typename T>
struct AxisSample {
  int low, high;
  T low_weight, high_weight, position;
  bool inside, clamped;
};

template <typename T>
CB_HD AxisSample<T> sample_axis(T position, int size) {
  AxisSample<T> sample{0, 0, T(0), T(0), position, false, true};
  sample.inside = size > 0 && position >= T(-0.5) && position <= T(size) - T(0.5);
  if (!sample.inside) return sample;
  sample.clamped = position < T(0);
  if (sample.clamped) position = T(0);
  sample.low = static_cast<int>(position);
  if (sample.low >= size - 1) {
    sample.low = sample.high = size - 1;
    position = T(size - 1);
    sample.clamped = true;
  } else {
    sample.high = sample.low + 1;
  }
  sample.high_weight = position - T(sample.low);
  sample.low_weight = T(1) - sample.high_weight;
  sample.position = position;
  return sample;
}

}  // namespace caffe_bridge
