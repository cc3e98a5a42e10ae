"""The public archives of data sets and models: where they are, what they have to be, and where their contents go.

Sources: data/scripts of MNC and py-faster-rcnn, Caffe's model zoo, and the data sets' own pages; sizes and digests are
those that torchvision, TensorFlow Datasets, OpenCV and MXNet check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from caffe_bridge.downloads import Expected

_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_VOC_COPY = "https://pjreddie.com/media/files"
_SBD = "Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
_MNC_LISTS = "https://raw.githubusercontent.com/daijifeng001/MNC/master/data/VOCdevkitSDS"
_COCO = "http://images.cocodataset.org"
_CAFFE = "http://dl.caffe.berkeleyvision.org"
_MXNET = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/caffe/models"
_ONEDRIVE = "https://onedrive.live.com/download"
_DROPBOX = "https://dl.dropboxusercontent.com/s"


@dataclass(frozen=True)
class Archive:
    """A file that is fetched.

    Attributes:
        about: what it is.
        urls: where it is, tried in order.
        file: its name, by which it is found in downloads/ too.
        places: folders in the archive and where their contents go, below the data folder; * is any one name.
        folder: where a file that is not unpacked goes, below the data folder.
        size: in bytes; 0 if unknown.
        digest: ALGORITHM:HEX; "" if unknown.
        hint: where else it may be.
    """

    about: str
    urls: tuple[str, ...]
    file: str
    places: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    size: int = 0
    digest: str = ""
    hint: str = ""

    @property
    def expected(self) -> Expected:
        """What is known of the file."""
        return Expected(self.size, self.digest)

    @property
    def results(self) -> list[str]:
        """What there is afterwards, below the data folder."""
        return list(self.places.values()) or [f"{self.folder}/{self.file}"]


def _voc(year: int, file: str, about: str, size: int = 0, md5: str = "") -> Archive:
    urls = (f"{_VOC}/voc{year}/{file}", f"{_VOC_COPY}/{file}") if md5 else (f"{_VOC}/voc{year}/{file}",)
    return Archive(about, urls, file, {"VOCdevkit": f"VOCdevkit{year}"}, size=size, digest=md5 and f"md5:{md5}")


def _coco(path: str, about: str, place: str, size: int, sha256: str) -> Archive:
    file = path.rpartition("/")[2]
    inside = "annotations" if path.startswith("annotations") else file.removesuffix(".zip")
    return Archive(about, (f"{_COCO}/{path}",), file, {inside: f"coco/{place}"}, size=size, digest=f"sha256:{sha256}")


def _model(file: str, about: str, urls: Iterable[str], digest: str = "", hint: str = "") -> Archive:
    return Archive(about, tuple(urls), file, folder="imagenet_models", digest=digest, hint=hint)


ARCHIVES: dict[str, Archive] = {
    "voc2007-trainval": _voc(
        2007,
        "VOCtrainval_06-Nov-2007.tar",
        "VOC 2007: images and annotations for training",
        460032000,
        "c52e279531787c972589f7e41ab4ae64",
    ),
    "voc2007-test": _voc(
        2007,
        "VOCtest_06-Nov-2007.tar",
        "VOC 2007: images and annotations for tests",
        451020800,
        "b6e924de25625d8de591ea690078ad9f",
    ),
    "voc2007-devkit": _voc(2007, "VOCdevkit_08-Jun-2007.tar", "VOC 2007: the MATLAB code for evaluation"),
    "voc2012-trainval": _voc(
        2012,
        "VOCtrainval_11-May-2012.tar",
        "VOC 2012: images and annotations for training, segmentations too",
        1999639040,
        "6cd6e144f989b92b3379bac3b3de84fd",
    ),
    "voc2012-test": Archive(
        "VOC 2012: images for tests; their annotations are not public",
        (f"{_VOC_COPY}/VOC2012test.tar",),
        "VOC2012test.tar",
        {"VOCdevkit": "VOCdevkit2012"},
        size=1850626560,
        digest="sha256:f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3",
        hint="VOC's evaluation server gives it to those who register",
    ),
    "voc2012-devkit": _voc(2012, "VOCdevkit_18-May-2011.tar", "VOC 2012: the MATLAB code for evaluation"),
    "sbd-images": Archive(
        "SBD: VOC's images with instances and classes, as MNC is trained on",
        (f"http://www.eecs.berkeley.edu/{_SBD}", f"https://www2.eecs.berkeley.edu/{_SBD}"),
        "benchmark.tgz",
        {f"benchmark_RELEASE/dataset/{kind}": f"VOCdevkitSDS/{kind}" for kind in ("img", "inst", "cls")},
        size=1419539633,
        digest="md5:82b4d87ceb2ed10f6038a1cba92111cb",
        hint="torchvision's SBDataset uses the same file",
    ),
    "sbd-train-list": Archive(
        "SBD: the list of images MNC is trained on; SBD's own is another",
        (f"{_MNC_LISTS}/train.txt",),
        "train.txt",
        folder="VOCdevkitSDS",
        size=67476,
        digest="sha256:0b2068f7a359d2907431803e1cd63bf6162da37d7d503b589d3b08c6fd0c2432",
        hint="a clone of the MNC repository has it in data/VOCdevkitSDS",
    ),
    "sbd-val-list": Archive(
        "SBD: the list of images MNC is tested on",
        (f"{_MNC_LISTS}/val.txt",),
        "val.txt",
        folder="VOCdevkitSDS",
        size=68784,
        digest="sha256:6c72c4109730d4fa5e34a6ec9f8cb44b8835c8b21afab92fe2b2556533557016",
        hint="a clone of the MNC repository has it in data/VOCdevkitSDS",
    ),
    "mcg-voc2012": Archive(
        "MCG's segment proposals for VOC 2012, for CFM",
        ("https://data.vision.ee.ethz.ch/jpont/mcg/MCG-Pascal-Main_trainvaltest_2012-proposals.tgz",),
        "MCG-Pascal-Main_trainvaltest_2012-proposals.tgz",
        {"*": "MCG-raw"},
        hint="`caffe-bridge make-proposals` makes others, not as good",
    ),
    "selective-search": Archive(
        "selective search boxes for VOC, for Fast R-CNN",
        (f"{_DROPBOX}/orrt7o6bp6ae0tc/selective_search_data.tgz?dl=1",),
        "selective_search_data.tgz",
        {"selective_search_data": "selective_search_data"},
        digest="md5:7078c1db87a7851b31966b96774cd9b9",
    ),
    "coco2014-annotations": _coco(
        "annotations/annotations_trainval2014.zip",
        "COCO 2014: annotations",
        "annotations",
        252872794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ),
    "coco2014-train": _coco(
        "zips/train2014.zip",
        "COCO 2014: images for training",
        "images/train2014",
        13510573713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    ),
    "coco2014-val": _coco(
        "zips/val2014.zip",
        "COCO 2014: images for validation",
        "images/val2014",
        6645013297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    ),
    "coco2014-minival": Archive(
        "COCO 2014: annotations of minival and of val without it",
        (
            "https://dl.fbaipublicfiles.com/detectron/coco/coco_annotations_minival.tgz",
            "https://s3-us-west-2.amazonaws.com/detectron/coco/coco_annotations_minival.tgz",
        ),
        "coco_annotations_minival.tgz",
        {"annotations": "coco/annotations"},
        hint="minival has the images of COCO 2017's val",
    ),
    "coco2015-test-info": _coco(
        "annotations/image_info_test2015.zip",
        "COCO 2015: lists of the test images",
        "annotations",
        1887164,
        "cf400242f8497257fb8a3e369bc766491f4a7e42625fb3d72555504e9a8c3b18",
    ),
    "coco2015-test": _coco(
        "zips/test2015.zip",
        "COCO 2015: images for tests",
        "images/test2015",
        13270587935,
        "1a2aa896b81140a850a78fa8bff07d455698d2abf364ff05721763458a8101ca",
    ),
    "coco2017-annotations": _coco(
        "annotations/annotations_trainval2017.zip",
        "COCO 2017: annotations",
        "annotations",
        252907541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    "coco2017-train": _coco(
        "zips/train2017.zip",
        "COCO 2017: images for training",
        "images/train2017",
        19336861798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "coco2017-val": _coco(
        "zips/val2017.zip",
        "COCO 2017: images for validation",
        "images/val2017",
        815585330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "vgg16": _model(
        "VGG_ILSVRC_16_layers.caffemodel",
        "VGG-16 as its authors released it",
        (
            "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
            f"{_MXNET}/vgg/VGG_ILSVRC_16_layers.caffemodel",
        ),
        "sha1:9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24",
        "`vgg16-torchvision` is another VGG-16",
    ),
    "vgg16-torchvision": _model(
        "vgg16-397923af.pth",
        "torchvision's VGG-16; `caffe-bridge make-vgg16` converts it",
        ("https://download.pytorch.org/models/vgg16-397923af.pth",),
        "sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "vgg16-mask": _model(
        "VGG16.mask.caffemodel",
        "what MNC and CFM start from",
        (f"{_ONEDRIVE}?resid=F371D9563727B96F!91967&authkey=!AKjrYZBFAfb6JBQ",),
        hint="`caffe-bridge make-vgg16` makes it from `vgg16`",
    ),
    "vgg16-v2": _model(
        "VGG16.v2.caffemodel",
        "what MNC's Faster R-CNN starts from: VGG-16",
        (f"{_ONEDRIVE}?resid=F371D9563727B96F!91966&authkey=!ABoH69DkSk81FwA",),
        hint="`vgg16` is the same net",
    ),
    "resnet50": _model(
        "ResNet-50-model.caffemodel",
        "ResNet-50 as its authors released it",
        (
            f"{_MXNET}/resnet/ResNet-50-model.caffemodel",
            f"{_ONEDRIVE}?cid=4006CBB8476FF777&resid=4006CBB8476FF777%2117895&authkey=%21AAFW2%2DFVoxeVRck",
        ),
        "sha1:b7c79ccc21ad0479cddc0dd78b1d20c4d722908d",
        "github.com/KaimingHe/deep-residual-networks says where the authors keep it",
    ),
    "resnet101": _model(
        "ResNet-101-model.caffemodel",
        "ResNet-101 as its authors released it",
        (f"{_MXNET}/resnet/ResNet-101-model.caffemodel",),
        "sha1:1dbf5f493926bb9b6b3363b12d5133c0f8b78904",
        "github.com/KaimingHe/deep-residual-networks says where the authors keep it",
    ),
    "alexnet": _model(
        "bvlc_alexnet.caffemodel",
        "Caffe's AlexNet",
        (f"{_CAFFE}/bvlc_alexnet.caffemodel", f"{_MXNET}/bvlc_alexnet/bvlc_alexnet.caffemodel"),
        "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
    ),
    "caffenet": _model(
        "bvlc_reference_caffenet.caffemodel",
        "Caffe's CaffeNet",
        (f"{_CAFFE}/bvlc_reference_caffenet.caffemodel",),
        "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
    ),
    "googlenet": _model(
        "bvlc_googlenet.caffemodel",
        "Caffe's GoogLeNet",
        (f"{_CAFFE}/bvlc_googlenet.caffemodel", f"{_MXNET}/bvlc_googlenet/bvlc_googlenet.caffemodel"),
        "sha1:405fc5acd08a3bb12de8ee5e23a96bec22f08204",
    ),
    "rcnn-ilsvrc13": _model(
        "bvlc_reference_rcnn_ilsvrc13.caffemodel",
        "Caffe's R-CNN of ILSVRC 2013",
        (f"{_CAFFE}/bvlc_reference_rcnn_ilsvrc13.caffemodel",),
        "sha1:bdd8abb885819cba5e2fe1eb36235f2319477e64",
    ),
    "mnc-model": Archive(
        "the MNC its authors released",
        (f"{_ONEDRIVE}?resid=571EABC0F8C2A19C!1103&authkey=!ALXduVujs-7r6Ug",),
        "mnc_model.caffemodel.h5",
        folder="mnc_model",
    ),
    "faster-rcnn-models": Archive(
        "py-faster-rcnn's detectors for VOC",
        (f"{_DROPBOX}/o6ii098bu51d139/faster_rcnn_models.tgz?dl=1",),
        "faster_rcnn_models.tgz",
        {"faster_rcnn_models": "faster_rcnn_models"},
        digest="md5:ac116844f66aefe29587214272054668",
    ),
    "imagenet-models": Archive(
        "ZF, VGG_CNN_M_1024 and VGG-16, which py-faster-rcnn starts from",
        (f"{_DROPBOX}/gstw7122padlf0l/imagenet_models.tgz?dl=1",),
        "imagenet_models.tgz",
        {"imagenet_models": "imagenet_models"},
        digest="md5:ed34ca912d6782edfb673a8c3a0bda6d",
    ),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "voc2007": ("voc2007-trainval", "voc2007-test", "voc2007-devkit"),
    "voc2012": ("voc2012-trainval", "voc2012-devkit"),
    "sbd": ("sbd-images", "sbd-train-list", "sbd-val-list"),
    "coco2014": ("coco2014-annotations", "coco2014-minival", "coco2014-train", "coco2014-val"),
    "coco2017": ("coco2017-annotations", "coco2017-train", "coco2017-val"),
}
"""Archives that belong together."""
