"""SSD-300 on VGG-16, with the classes of PASCAL VOC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

from . import blocks, zoo_vgg
from . import zoo_blocks as z

CLASSES = 21


@dataclass(frozen=True)
class Source:
    """A blob that boxes are predicted from.

    Attributes:
        blob: its name.
        sizes: side of the smaller and the larger square prior, in scaled-image pixels.
        ratios: width over height of the other priors; their inverses come with them.
        step: scaled-image pixels from one feature cell to the next.
    """

    blob: str
    sizes: tuple[float, float]
    ratios: tuple[float, ...]
    step: int

    @property
    def priors(self) -> int:
        """Priors of a feature cell."""
        return 2 + 2 * len(self.ratios)


SOURCES = (
    Source("conv4_3_norm", (30, 60), (2,), 8),
    Source("fc7", (60, 111), (2, 3), 16),
    Source("conv6_2", (111, 162), (2, 3), 32),
    Source("conv7_2", (162, 213), (2, 3), 64),
    Source("conv8_2", (213, 264), (2,), 100),
    Source("conv9_2", (264, 315), (2,), 300),
)


def ssd300() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("VGG_VOC0712_SSD_300x300_deploy", (1, 3, 300, 300), _detector)}


def _detector(n: NetSpec) -> None:
    _features(n)
    settings = {"across_spatial": False, "scale_filler": z.constant(20), "channel_shared": False}
    n.conv4_3_norm = L.Normalize(n.conv4_3, norm_param=settings)
    for source in SOURCES:
        _predict(n, source)
    for kind, axis in (("loc", 1), ("conf", 1), ("priorbox", 2)):
        suffix = "" if kind == "priorbox" else "_flat"
        bottoms = [n[f"{source.blob}_mbox_{kind}{suffix}"] for source in SOURCES]
        n[f"mbox_{kind}"] = L.Concat(*bottoms, axis=axis)
    n.mbox_conf_reshape = L.Reshape(n.mbox_conf, shape={"dim": [0, -1, CLASSES]})
    n.mbox_conf_softmax = L.Softmax(n.mbox_conf_reshape, axis=2)
    n.mbox_conf_flatten = L.Flatten(n.mbox_conf_softmax, axis=1)
    settings = {
        "num_classes": CLASSES,
        "share_location": True,
        "background_label_id": 0,
        "nms_param": {"nms_threshold": 0.45, "top_k": 400},
        "code_type": P.PriorBox.CENTER_SIZE,
        "keep_top_k": 200,
        "confidence_threshold": 0.01,
    }
    n.detection_out = L.DetectionOutput(
        n.mbox_loc, n.mbox_conf_flatten, n.mbox_priorbox, detection_output_param=settings
    )


def _features(n: NetSpec) -> None:
    """VGG-16 with its fully connected layers as dilated convolutions, and four pairs of convolutions above them."""
    top = z.pool(n, "pool5", zoo_vgg.trunk(n), stride=1, pad=1)
    for i, settings in ((6, {"kernel_size": 3, "pad": 6, "dilation": 6}), (7, {"kernel_size": 1})):
        top = _conv(n, f"fc{i}", f"relu{i}", top, 1024, **settings)
    halved, kept = {"pad": 1, "stride": 2}, {"pad": 0, "stride": 1}
    for i, narrow, wide, settings in ((6, 256, 512, halved), (7, 128, 256, halved), (8, 128, 256, kept)):
        top = _pair(n, i, top, narrow, wide, **settings)
    _pair(n, 9, top, 128, 256, **kept)


def _pair(n: NetSpec, i: int, bottom: str, narrow: int, wide: int, **settings: int) -> str:
    top = _conv(n, f"conv{i}_1", f"conv{i}_1_relu", bottom, narrow, kernel_size=1)
    return _conv(n, f"conv{i}_2", f"conv{i}_2_relu", top, wide, kernel_size=3, **settings)


def _conv(n: NetSpec, name: str, relu: str, bottom: str, channels: int, kernel_size: int, **settings: Any) -> str:
    z.conv(n, name, bottom, channels, kernel_size, z.XAVIER, **settings)
    blocks.relu(n, relu, name)
    return name


def _predict(n: NetSpec, source: Source) -> None:
    """Offsets, scores and priors of one source."""
    for kind, values in (("loc", 4), ("conf", CLASSES)):
        name = f"{source.blob}_mbox_{kind}"
        z.conv(n, name, source.blob, values * source.priors, 3, z.XAVIER, pad=1)
        n[f"{name}_perm"] = L.Permute(n[name], order=[0, 2, 3, 1])
        n[f"{name}_flat"] = L.Flatten(n[f"{name}_perm"], axis=1)
    n[f"{source.blob}_mbox_priorbox"] = L.PriorBox(
        n[source.blob],
        n.data,
        min_size=[source.sizes[0]],
        max_size=[source.sizes[1]],
        aspect_ratio=list(source.ratios),
        flip=True,
        clip=False,
        variance=[0.1, 0.1, 0.2, 0.2],
        step=source.step,
        offset=0.5,
    )
