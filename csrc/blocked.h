// Features regrouped so that the innermost axis is a block of kBlock channels (zero padded): one load reads a
// cell of a whole block, and loops over it become vector instructions.
#pragma once

#include <memory>

#include "common.h"
#include "tensors.h"

namespace caffe_bridge {

// (images, blocks, cells, kBlock)
template <typename T>
struct Blocked {
  int images, channels, blocks;
  int64_t cells;
  std::unique_ptr<T[]> data;

  Blocked(int images, int channels, int64_t cells)
      : images(images),
        channels(channels),
        blocks((channels + kBlock - 1) / kBlock),
        cells(cells),
        data(new T[static_cast<size_t>(images) * blocks * cells * kBlock]) {}

  T* plane(int64_t image, int64_t block) const { return data.get() + (image * blocks + block) * cells * kBlock; }

  // Channels of `block` that exist.
  int valid(int64_t block) const {
    return static_cast<int>(smaller<int64_t>(kBlock, channels - block * kBlock));
  }

  // From an (images, channels, cells) array.
  void load(const T* source) {
    torch::stable::parallel_for(0, int64_t{images} * blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i % blocks;
        const T* from = source + (i / blocks * channels + block * kBlock) * cells;
        T* to = plane(i / blocks, block);
        const int count = valid(block);
        for (int64_t cell = 0; cell < cells; ++cell)
          for (int lane = 0; lane < kBlock; ++lane) to[cell * kBlock + lane] = lane < count ? from[lane * cells + cell] : T(0);
      }
    });
  }

  // One plane back into an (images, channels, cells) array.
  void store(int64_t image, int64_t block, T* target) const {
    const T* from = plane(image, block);
    T* to = target + (image * channels + block * kBlock) * cells;
    for (int lane = 0; lane < valid(block); ++lane)
      for (int64_t cell = 0; cell < cells; ++cell) to[lane * cells + cell] = from[cell * kBlock + lane];
  }
};

}  // namespace caffe_bridge
