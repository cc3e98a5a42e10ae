"""Found as `caffe` by the child processes of `python -m caffe_bridge.pycaffe`; hands over to the real module."""

import caffe_bridge.pycaffe

caffe_bridge.pycaffe.install()
