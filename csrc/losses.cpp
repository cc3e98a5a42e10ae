// SmoothL1Loss and SigmoidCrossEntropyLoss on the CPU.
#include "cpu.h"
#include "losses.h"

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CPU, m) {
  m.impl("smooth_l1", TORCH_BOX(&caffe_bridge::smooth_l1));
  m.impl("smooth_l1_backward", TORCH_BOX(&caffe_bridge::smooth_l1_backward));
  m.impl("sigmoid_cross_entropy", TORCH_BOX(&caffe_bridge::sigmoid_cross_entropy));
  m.impl("sigmoid_cross_entropy_backward", TORCH_BOX(&caffe_bridge::sigmoid_cross_entropy_backward));
}
