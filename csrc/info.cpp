// What this build contains: `torch.ops.caffe_bridge.native_devices()` names the devices it has kernels for.
#include <torch/csrc/stable/library.h>

#include <string>

namespace {

std::string native_devices() {
#if defined(CAFFE_BRIDGE_WITH_CUDA)
  return "cpu cuda";
#else
  return "cpu";
#endif
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(caffe_bridge, m) {
  m.def("native_devices() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(caffe_bridge, CompositeExplicitAutograd, m) {
  m.impl("native_devices", TORCH_BOX(&native_devices));
}
