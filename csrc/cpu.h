// How a kernel written as "compute element i" runs on the CPU. cuda.h offers the same functions for CUDA, so
// such an operation's host code is written once and included by its .cpp and its .cu file.
#pragma once

#include <vector>

#include "tensors.h"

namespace caffe_bridge {

// kernel(i) for every i in [0, count), in parallel.
template <typename Kernel>
void for_each(const Tensor&, int64_t count, const Kernel& kernel) {
  torch::stable::parallel_for(0, count, 2048, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) kernel(i);
  });
}

// Writes the sum of kernel(i), a double, to target[0]; the order of summation does not depend on the threads.
template <typename T, typename Kernel>
void sum_into(const Tensor&, T* target, int64_t count, const Kernel& kernel) {
  constexpr int64_t kChunk = 4096;
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  std::vector<double> partial(static_cast<size_t>(chunks), 0.0);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t last = chunk * kChunk + kChunk < count ? chunk * kChunk + kChunk : count;
      for (int64_t i = chunk * kChunk; i < last; ++i) partial[chunk] += kernel(i);
    }
  });
  double sum = 0;
  for (double value : partial) sum += value;
  target[0] = static_cast<T>(sum);
}

}  // namespace caffe_bridge
