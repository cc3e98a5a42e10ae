"""Caffe's protocol buffer messages."""

from caffe_bridge.pycaffe.proto import caffe_pb2 as caffe_pb2
