"""Nets of Caffe's own distribution and other widely used ones, by directory in prototxt/; released weights fit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import (
    zoo_densenet,
    zoo_googlenet,
    zoo_imagenet,
    zoo_inception_v3,
    zoo_lrcn,
    zoo_mobilenet,
    zoo_resnet,
    zoo_small,
    zoo_squeezenet,
    zoo_ssd,
    zoo_unet,
    zoo_vgg,
)


@dataclass(frozen=True)
class Published:
    """A net with the files it is used by.

    Attributes:
        about: what it is, for the files' headers.
        paper: where it was published.
        files: makes a NetParameter for each file name, and the fields of a SolverParameter for solver.prototxt.
    """

    about: str
    paper: str
    files: Callable[[], dict[str, Any]]


_ALEXNET = (
    "A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012"
)
_CAFFE = "Y. Jia et al.: Caffe: Convolutional Architecture for Fast Feature Embedding, ACM Multimedia 2014"
_GOOGLENET = "C. Szegedy et al.: Going Deeper with Convolutions, CVPR 2015"
_RCNN = "R. Girshick, J. Donahue, T. Darrell, J. Malik: Rich Feature Hierarchies, CVPR 2014"
_FCN = "J. Long, E. Shelhamer, T. Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015"
_SIAMESE = "R. Hadsell, S. Chopra, Y. LeCun: Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006"
_AUTOENCODER = (
    "G. Hinton, R. Salakhutdinov: Reducing the Dimensionality of Data with Neural Networks, Science 313, 2006"
)
_LRCN = "J. Donahue et al.: Long-term Recurrent Convolutional Networks, CVPR 2015"
_VGG = "K. Simonyan, A. Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015"
_RESNET = "K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016"
_SQUEEZENET = (
    "F. Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size, 2016"
)
_MOBILENET = (
    "A. Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, 2017"
)
_MOBILENET_V2 = "M. Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018"
_DENSENET = "G. Huang, Z. Liu, L. van der Maaten, K. Weinberger: Densely Connected Convolutional Networks, CVPR 2017"
_INCEPTION_V3 = "C. Szegedy et al.: Rethinking the Inception Architecture for Computer Vision, CVPR 2016"
_UNET = "O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, 2015"
_SSD = "W. Liu et al.: SSD: Single Shot MultiBox Detector, ECCV 2016"

ZOO: dict[str, Published] = {
    "alexnet": Published("AlexNet, as in Caffe's bvlc_alexnet", _ALEXNET, zoo_imagenet.alexnet),
    "caffenet": Published(
        "CaffeNet, as in Caffe's bvlc_reference_caffenet: AlexNet that pools before it normalises",
        _ALEXNET,
        zoo_imagenet.caffenet,
    ),
    "caffenet_full_conv": Published(
        "CaffeNet cast to convolutions alone, as in Caffe's net surgery; the parameters of fc6, fc7 and fc8 fit"
        " fc6-conv, fc7-conv and fc8-conv once reshaped",
        _FCN,
        zoo_imagenet.full_conv,
    ),
    "rcnn_ilsvrc13": Published(
        "R-CNN's classifier of the 200 classes of ILSVRC 2013, as in Caffe's bvlc_reference_rcnn_ilsvrc13",
        _RCNN,
        zoo_imagenet.rcnn,
    ),
    "googlenet": Published("GoogLeNet, as in Caffe's bvlc_googlenet", _GOOGLENET, zoo_googlenet.googlenet),
    "cifar10_quick": Published("Caffe's quick net for CIFAR-10", _CAFFE, zoo_small.cifar10_quick),
    "cifar10_full": Published("Caffe's full net for CIFAR-10", _CAFFE, zoo_small.cifar10_full),
    "siamese_lenet": Published(
        "a siamese LeNet on pairs of digits, two channels each", _SIAMESE, zoo_small.siamese_lenet
    ),
    "autoencoder": Published("a deep autoencoder of digits", _AUTOENCODER, zoo_small.autoencoder),
    "logistic_regression": Published(
        "logistic regression on rows of features in HDF5 files", _CAFFE, zoo_small.logistic_regression
    ),
    "lrcn": Published(
        "the recurrent net LRCN for activities in clips of 16 frames, rows of the HDF5 files in time-major order",
        _LRCN,
        zoo_lrcn.lrcn,
    ),
    "vgg16": Published("VGG-16, as released", _VGG, zoo_vgg.vgg16),
    "resnet50": Published("ResNet-50, as released", _RESNET, zoo_resnet.resnet50),
    "squeezenet": Published("SqueezeNet 1.1, as released", _SQUEEZENET, zoo_squeezenet.squeezenet),
    "mobilenet": Published("MobileNet", _MOBILENET, zoo_mobilenet.mobilenet),
    "mobilenet_v2": Published("MobileNetV2", _MOBILENET_V2, zoo_mobilenet.mobilenet_v2),
    "densenet121": Published("DenseNet-121", _DENSENET, zoo_densenet.densenet121),
    "inception_v3": Published("Inception-v3", _INCEPTION_V3, zoo_inception_v3.inception_v3),
    "unet": Published("U-Net", _UNET, zoo_unet.unet),
    "fcn8s": Published("FCN-8s with the classes of PASCAL VOC", _FCN, zoo_vgg.fcn8s),
    "ssd300": Published("SSD-300 on VGG-16 with the classes of PASCAL VOC", _SSD, zoo_ssd.ssd300),
}
