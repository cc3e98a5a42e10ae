// One number for the bytes of many tensors: it tells whether any of them has changed, by whatever means.
#include <algorithm>
#include <cstring>
#include <vector>

#include "tensors.h"

namespace caffe_bridge {
namespace {

// Words that are worked on side by side, and in one piece of parallel work.
constexpr int kLanes = 128;
constexpr int64_t kChunk = 512 * kLanes;
constexpr uint32_t kFactor = 0x9E3779B1u;
constexpr uint64_t kMix = 0x9E3779B97F4A7C15u;

uint64_t mixed(uint64_t state, uint64_t value) {
  state = (state ^ value) * kMix;
  return state ^ (state >> 29);
}

// Each lane is a polynomial in an odd number, so that any one word that changes changes it.
CB_CLONES void accumulate(const uint8_t* bytes, int64_t rows, uint32_t* lanes) {
  uint32_t state[kLanes], words[kLanes];
  std::copy(lanes, lanes + kLanes, state);
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(words, bytes + row * sizeof(words), sizeof(words));
    for (int i = 0; i < kLanes; ++i) state[i] = state[i] * kFactor + words[i];
  }
  std::copy(state, state + kLanes, lanes);
}

uint64_t of_chunk(const uint8_t* bytes, int64_t size) {
  uint32_t lanes[kLanes] = {}, rest[kLanes] = {};
  const int64_t rows = size / int64_t{sizeof(lanes)}, done = rows * int64_t{sizeof(lanes)};
  accumulate(bytes, rows, lanes);
  std::memcpy(rest, bytes + done, static_cast<size_t>(size - done));
  accumulate(reinterpret_cast<const uint8_t*>(rest), 1, lanes);
  uint64_t state = static_cast<uint64_t>(size);
  for (uint32_t lane : lanes) state = mixed(state, lane);
  return state;
}

int64_t fingerprint(std::vector<Tensor> tensors) {
  uint64_t state = 0;
  for (const Tensor& given : tensors) {
    const Tensor tensor = dense(given);
    const int64_t size = tensor.numel() * tensor.element_size(), step = kChunk * int64_t{sizeof(uint32_t)};
    const auto* bytes = static_cast<const uint8_t*>(tensor.const_data_ptr());
    std::vector<uint64_t> chunks(static_cast<size_t>((size + step - 1) / step));
    torch::stable::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        chunks[i] = of_chunk(bytes + i * step, smaller<int64_t>(step, size - i * step));
    });
    state = mixed(state, static_cast<uint64_t>(size));
    for (uint64_t chunk : chunks) state = mixed(state, chunk);
  }
  return static_cast<int64_t>(state);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("fingerprint", TORCH_BOX(&fingerprint));
}

}  // namespace caffe_bridge
