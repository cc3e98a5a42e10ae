// PSROIPooling on CUDA.
#include "cuda.h"
#include "psroi_pooling.h"

namespace caffe_bridge {
namespace {

template <typename T>
void fill_gradient(const Tensor& result, const PsroiBackward<T>& kernel) {
  for_each(result, result.numel(), kernel);
}

}  // namespace
}  // namespace caffe_bridge

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CUDA, m) {
  m.impl("psroi_pooling", TORCH_BOX(&caffe_bridge::psroi_forward));
  m.impl("psroi_pooling_backward", TORCH_BOX(&caffe_bridge::psroi_backward));
}
