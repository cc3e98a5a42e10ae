// Mask merging on CUDA: one block per group, which computes every summed pixel from the small masks and keeps none.
#include "mask_voting.h"

#include <tuple>

#include "cuda.h"

namespace caffe_bridge {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads)
    merge_kernel(Members<T> all, int height, int width, T threshold, T* merged, int32_t* tight) {
  const Group<T> group(all, blockIdx.x);
  __shared__ int32_t box[4];
  if (threadIdx.x == 0) box[0] = width, box[1] = height, box[2] = box[3] = -1;
  __syncthreads();
  int x0, y0, x1, y1;
  group.extent(height, width, x0, y0, x1, y1);
  const int64_t columns = int64_t{x1} - x0 + 1, rows = int64_t{y1} - y0 + 1;
  if (columns > 0 && rows > 0)
    for (int64_t i = threadIdx.x; i < columns * rows; i += kThreads) {
      const int x = x0 + static_cast<int>(i % columns), y = y0 + static_cast<int>(i / columns);
      if (group.at(x, y) > threshold) {
        atomicMin(box, x), atomicMin(box + 1, y), atomicMax(box + 2, x), atomicMax(box + 3, y);
      }
    }
  __syncthreads();
  if (threadIdx.x == 0 && box[2] < 0) box[0] = box[2] = width / 2, box[1] = box[3] = height / 2;
  __syncthreads();
  if (threadIdx.x < 4) tight[int64_t{blockIdx.x} * 4 + threadIdx.x] = box[threadIdx.x];
  const int values = all.size * all.size;
  for (int i = threadIdx.x; i < values; i += kThreads)
    merged[int64_t{blockIdx.x} * values + i] = group.resized(box, i / all.size, i % all.size, height, width);
}

std::tuple<Tensor, Tensor> merge_masks(const Tensor& boxes, const Tensor& masks, const Tensor& members,
                                       const Tensor& ends, const Tensor& weights, int64_t height, int64_t width,
                                       double threshold) {
  const auto guard = on_device_of(boxes);
  const Merge m(boxes, masks, members, ends, weights, height, width);
  if (m.groups == 0) return {m.merged, m.tight};
  by_dtype(m.boxes, [&](auto zero) {
    using T = decltype(zero);
    merge_kernel<<<static_cast<unsigned>(m.groups), kThreads, 0, stream_of(m.boxes)>>>(
        m.all<T>(), m.height, m.width, static_cast<T>(threshold), out<T>(m.merged), out<int32_t>(m.tight));
    check_launch();
  });
  return {m.merged, m.tight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("merge_masks", TORCH_BOX(&merge_masks));
}

}  // namespace caffe_bridge
