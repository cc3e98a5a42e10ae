// Non-maximum suppression on CUDA: all pairwise decisions as bits, then one block walks the boxes in order.
#include "nms.h"

#include "cuda.h"

namespace caffe_bridge {
namespace {

constexpr int kBits = 64;

// Bit b of decisions[i][word]: box i suppresses box word * 64 + b, which comes later.
template <typename T>
__global__ void __launch_bounds__(kBits) decide(const T* boxes, int count, int words, T least, uint64_t* decisions) {
  if (blockIdx.x < blockIdx.y) return;
  const int i = blockIdx.y * kBits + threadIdx.x, first = blockIdx.x * kBits;
  __shared__ T others[kBits * 4];
  if (first + threadIdx.x < count)
    for (int k = 0; k < 4; ++k) others[threadIdx.x * 4 + k] = boxes[int64_t{first + int(threadIdx.x)} * 4 + k];
  __syncthreads();
  if (i >= count) return;
  uint64_t bits = 0;
  for (int b = 0; b < kBits && first + b < count; ++b)
    if (first + b > i && overlap(boxes + int64_t{i} * 4, others + b * 4) >= least) bits |= uint64_t{1} << b;
  decisions[int64_t{i} * words + blockIdx.x] = bits;
}

__global__ void __launch_bounds__(kThreads)
    walk(const uint64_t* decisions, int count, int words, uint64_t* suppressed, bool* keep) {
  for (int word = threadIdx.x; word < words; word += kThreads) suppressed[word] = 0;
  __syncthreads();
  for (int i = 0; i < count; ++i) {
    const bool kept = !(suppressed[i / kBits] >> (i % kBits) & 1);
    __syncthreads();
    if (threadIdx.x == 0) keep[i] = kept;
    if (kept)
      for (int word = i / kBits + threadIdx.x; word < words; word += kThreads)
        suppressed[word] |= decisions[int64_t{i} * words + word];
    __syncthreads();
  }
}

Tensor nms(const Tensor& boxes_, double threshold, bool inclusive) {
  STD_TORCH_CHECK(boxes_.dim() == 2 && boxes_.size(1) == 4, "boxes must be (n, 4)");
  const auto guard = on_device_of(boxes_);
  const Tensor boxes = dense(boxes_);
  const int count = axis(boxes.size(0)), words = (count + kBits - 1) / kBits;
  STD_TORCH_CHECK(words <= 65535, "CUDA nms takes at most ", 65535 * kBits, " boxes");
  Tensor keep = empty(boxes, {count}, ScalarType::Bool);
  if (count == 0) return keep;
  const Tensor decisions = empty(boxes, {count, words}, ScalarType::Long);
  const Tensor suppressed = empty(boxes, {words}, ScalarType::Long);
  by_dtype(boxes, [&](auto zero) {
    using T = decltype(zero);
    decide<<<dim3(words, words), kBits, 0, stream_of(boxes)>>>(in<T>(boxes), count, words,
                                                               least_suppressing<T>(threshold, inclusive),
                                                               static_cast<uint64_t*>(decisions.mutable_data_ptr()));
    check_launch();
  });
  walk<<<1, kThreads, 0, stream_of(boxes)>>>(static_cast<const uint64_t*>(decisions.const_data_ptr()), count, words,
                                             static_cast<uint64_t*>(suppressed.mutable_data_ptr()), out<bool>(keep));
  check_launch();
  return keep;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("nms", TORCH_BOX(&nms));
}

}  // namespace caffe_bridge
