"""Data sets for training and evaluation, by name or from one's own files."""

from caffe_bridge.datasets.dataset import Dataset, load
from caffe_bridge.datasets.registry import get_imdb, list_imdbs, register
from caffe_bridge.datasets.source import FoundObject, Item, Source

__all__ = ["Dataset", "FoundObject", "Item", "Source", "get_imdb", "list_imdbs", "load", "register"]
