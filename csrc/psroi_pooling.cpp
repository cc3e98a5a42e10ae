// PSROIPooling on the CPU; the gradient is spread plane by plane, so that each bin is visited once.
#include <algorithm>

#include "cpu.h"
#include "psroi_pooling.h"

namespace caffe_bridge {
namespace {

template <typename T>
void fill_gradient(const Tensor&, const PsroiBackward<T>& kernel) {
  const Pooling& p = kernel.p;
  torch::stable::parallel_for(0, int64_t{p.images} * p.channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int channel = static_cast<int>(i % p.channels), group = p.pooled_w;
      const int pw = channel % group, ph = channel / group % group;
      T* plane = kernel.result + i * p.cells();
      std::fill(plane, plane + p.cells(), T(0));
      for (int64_t r = 0; r < p.rois; ++r) {
        const Roi<T> roi = read_roi(kernel.rois + r * 5, p.images);
        if (roi.image != i / p.channels) continue;
        const Window bin = window(roi, p, kernel.scale, ph, pw);
        if (bin.area() == 0) continue;
        const T each = kernel.grad[r * p.channels + channel] / T(bin.area());
        for (int h = bin.h0; h < bin.h1; ++h)
          for (int w = bin.w0; w < bin.w1; ++w) plane[int64_t{h} * p.width + w] += each;
      }
    }
  });
}

}  // namespace
}  // namespace caffe_bridge

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("psroi_pooling", TORCH_BOX(&caffe_bridge::psroi_forward));
  m.impl("psroi_pooling_backward", TORCH_BOX(&caffe_bridge::psroi_backward));
}
