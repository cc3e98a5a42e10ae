"""Found as `caffe` by the child processes of `python -m caffe_bridge.pycaffe`; hands over to the real module."""

import caffe_bridge.pycaffe
from caffe_bridge import log

caffe_bridge.pycaffe.install()
log.show()
