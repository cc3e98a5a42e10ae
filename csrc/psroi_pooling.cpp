// PSROIPooling on the CPU.
#include "cpu.h"
#include "psroi_pooling.h"

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("psroi_pooling", TORCH_BOX(&caffe_bridge::psroi_forward));
  m.impl("psroi_pooling_backward", TORCH_BOX(&caffe_bridge::psroi_backward));
}
