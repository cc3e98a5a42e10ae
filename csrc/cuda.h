// How kernels are launched on CUDA, through the stable ABI only: current stream, device guard, launch checks.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "common.h"
#include "tensors.h"

extern "C" AOTI_TORCH_EXPORT AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace caffe_bridge {

constexpr int kThreads = 256;

inline cudaStream_t stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline torch::stable::accelerator::DeviceGuard on_device_of(const Tensor& tensor) {
  return torch::stable::accelerator::DeviceGuard(tensor.get_device_index());
}

inline void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA kernel launch failed: ", cudaGetErrorString(error));
}

// Enough blocks for `count` elements, without exceeding what a grid-stride loop needs.
inline int blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < 65535 ? blocks : 65535);
}

template <typename Kernel>
__global__ void __launch_bounds__(kThreads) each(int64_t count, Kernel kernel) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{blockDim.x} * gridDim.x)
    kernel(i);
}

// kernel(i) for every i in [0, count).
template <typename Kernel>
void for_each(const Tensor& like, int64_t count, const Kernel& kernel) {
  if (count == 0) return;
  const auto guard = on_device_of(like);
  each<<<blocks_for(count), kThreads, 0, stream_of(like)>>>(count, kernel);
  check_launch();
}

// Sum over the block, valid in thread 0; the same tree every time, so results repeat bit for bit.
__device__ inline double block_sum(double value) {
  __shared__ double shared[kThreads];
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int width = kThreads / 2; width > 0; width /= 2) {
    if (threadIdx.x < width) shared[threadIdx.x] += shared[threadIdx.x + width];
    __syncthreads();
  }
  const double sum = shared[0];
  __syncthreads();
  return sum;
}

template <typename Kernel>
__global__ void __launch_bounds__(kThreads) partial_sums(int64_t count, Kernel kernel, double* partial) {
  double sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{blockDim.x} * gridDim.x)
    sum += kernel(i);
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) total(const double* partial, int count, T* target) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) target[0] = static_cast<T>(sum);
}

// Writes the sum of kernel(i), a double, to target[0].
template <typename T, typename Kernel>
void sum_into(const Tensor& like, T* target, int64_t count, const Kernel& kernel) {
  const auto guard = on_device_of(like);
  const int blocks = count < int64_t{kThreads} * 1024 ? blocks_for(count) + (count == 0) : 1024;
  const Tensor partial = empty(like, {blocks}, ScalarType::Double);
  partial_sums<<<blocks, kThreads, 0, stream_of(like)>>>(count, kernel, out<double>(partial));
  check_launch();
  total<<<1, kThreads, 0, stream_of(like)>>>(in<double>(partial), blocks, target);
  check_launch();
}

}  // namespace caffe_bridge
