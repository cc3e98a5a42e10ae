"""MNC's data layer: one image at a time, with the boxes and masks of its objects."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from caffe_bridge import randomness, roidb
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.images import read_image
from caffe_bridge.layers import cascade
from caffe_bridge.layers.base import Layer, Shape, eager
from caffe_bridge.registry import register_python
from caffe_bridge.scaling import scale_image
from caffe_bridge.stream import restoring

Tops = tuple[torch.Tensor, ...]

logger = logging.getLogger(__name__)

_AHEAD = 2  # images drawn ahead for each worker


class Draw(NamedTuple):
    """An entry of the database, and the pixels its image's short side is scaled to."""

    entry: int
    target_size: float


class DrawOrder:
    """Which entry comes next and at which scale, by the random draws of MNC's data layer.

    A new permutation is drawn when one image of the last is left, which is therefore never used; then the scale is
    drawn, even from one.

    Args:
        random: the `numpy.random` module, whose global generator the samplers share; or a `RandomState`.
    """

    def __init__(self, random: Any):
        self._random = random
        self._entries: Sequence[Mapping[str, Any]] = ()
        self._order = np.empty(0, np.int64)
        self._position = 0

    def start(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Shuffle these entries and begin."""
        self._entries = entries
        self._order, self._position = roidb.shuffled(entries, self._random), 0

    def draw(self) -> Draw:
        """The next entry and its scale. Raises LayerError when cfg.TRAIN.SCALES is empty."""
        scales = cfg.TRAIN.SCALES
        if not scales:
            raise LayerError("TRAIN.SCALES is empty; it needs the pixels of the short side, such as (600,)")
        if self._position + 1 >= len(self._order):
            self.start(self._entries)
        entry = int(self._order[self._position])
        self._position += 1
        return Draw(entry, scales[int(self._random.randint(0, high=len(scales), size=1)[0])])

    def state(self) -> dict[str, Any]:
        """Where it stands, in JSON terms; with the generator's state, unless it is the global one."""
        generator = None
        if self._random is not np.random:
            generator = self._random.get_state(legacy=False)
            generator = {**generator["state"], "key": generator["state"]["key"].tolist()}
        return {"order": self._order.tolist(), "position": self._position, "generator": generator}

    def set_state(self, saved: Mapping[str, Any]) -> None:
        """Return to where `state` was taken. Raises ValueError when there were other entries then."""
        order, position = np.array(saved["order"], np.int64), int(saved["position"])
        if not np.array_equal(np.sort(order), np.arange(len(self._entries))) or not 0 <= position <= len(order):
            raise ValueError(f"it is of {len(order)} images, there are {len(self._entries)} now")
        if self._random is not np.random and saved["generator"] is not None:
            key = np.array(saved["generator"]["key"], np.uint32)
            inner = {"key": key, "pos": int(saved["generator"]["pos"])}
            self._random.set_state({"bit_generator": "MT19937", "state": inner, "has_gauss": 0, "gauss": 0.0})
        self._order, self._position = order, position


@register_python("pylayer.mnc_data_layer", "MNCDataLayer")
class MNCDataLayer(Layer):
    """Images with boxes and masks from a database that is handed over by `set_roidb` and `set_maskdb`.

    Tops: data (1, 3, h, w), the image less cfg.PIXEL_MEANS with its short side scaled to one of cfg.TRAIN.SCALES and
    its long one no longer than MAX_SIZE; im_info (1, 3): h, w, scale; gt_boxes (G, 5): x1, y1, x2, y2 in scaled-image
    pixels, class; and, for MNC, gt_masks (G, largest height, largest width), 0 or 1 in original-image pixels, each in
    the upper left corner; mask_info (G, 2): height and width of each. Without the last two it is Faster R-CNN's.

    `param_str`: num_classes; prefetch, the number of threads that prepare images ahead (0); unreadable, what to do
    about an image that cannot be read any more: "skip" (and log and count it in `unreadable`) or "refuse".

    Without prefetching, draws come from NumPy's global generator in the original's order: each `set_` shuffles, and
    `forward` shuffles when due and draws the scale. With it, the samplers keep that generator for themselves, and the
    layer draws from one of its own. Source: MNC's pylayer/mnc_data_layer.py.

    Attributes:
        unreadable: image path to the reason it was passed over.
    """

    bottoms = (0, 0)
    tops = (3, 5)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if len(self.param.top) == 4:
            raise LayerError("takes 3 tops (data, im_info, gt_boxes) or 5 (and gt_masks, mask_info), not 4")
        values = cascade.options(self.param, "num_classes")
        self.classes = cascade.class_count(values)
        self._with_masks = len(self.param.top) == 5
        workers = values.get("prefetch", 0)
        if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= 64:
            raise LayerError(f"param_str: 'prefetch' is a number of threads from 0 to 64, not {workers!r}")
        self._refuse = values.get("unreadable", "skip")
        if self._refuse not in ("skip", "refuse"):
            raise LayerError(f"param_str: 'unreadable' is skip or refuse, not {self._refuse!r}")
        self._refuse = self._refuse == "refuse"
        self._threads = ThreadPoolExecutor(workers) if workers else None
        self._depth = _AHEAD * workers
        self._queue: deque[tuple[Draw, Future[Tops]]] = deque()
        self._order = DrawOrder(_own_stream() if workers else np.random)
        self._roidb: Sequence[Mapping[str, Any]] = ()
        self._maskdb: Sequence[Mapping[str, Any]] = ()
        self.unreadable: dict[str, str] = {}

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        data = (1, 3, int(max(cfg.TRAIN.SCALES, default=1)), int(cfg.TRAIN.MAX_SIZE))
        return [data, (1, 3), (1, 4), (1, cfg.MASK_SIZE, cfg.MASK_SIZE), (1, 3)][: len(self.param.top)]

    def set_roidb(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the images and boxes (`Dataset.roidb`), and shuffle them.

        Raises:
            LayerError: an entry is incomplete, has no object, or one of a class beyond `num_classes`.
        """
        if not len(entries):
            raise LayerError("the roidb has no entry")
        for entry in entries:
            _check_entry(entry, self.classes)
        self._roidb, self._maskdb = entries, ()
        self._restart()

    def set_maskdb(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the masks that belong to the roidb (`Dataset.maskdb`), and shuffle once more, as the original does.

        Raises:
            LayerError: there is another number of entries than in the roidb, or of masks than of boxes in one.
        """
        if len(entries) != len(self._roidb):
            raise LayerError(
                f"the maskdb has {len(entries)} entries, the roidb {len(self._roidb)}; set the roidb first"
            )
        for boxes, masks in zip(self._roidb, entries):
            if len(masks["gt_masks"]) != len(boxes["boxes"]):
                count = len(masks["gt_masks"])
                raise LayerError(f"{boxes['image']}: has {len(boxes['boxes'])} boxes and {count} masks")
        self._maskdb = entries
        self._restart()

    def _restart(self) -> None:
        self._queue.clear()
        self._order.start(self._roidb)

    @eager
    def forward(self) -> Tops:
        if not len(self._roidb) or (self._with_masks and not len(self._maskdb)):
            wanted = "set_roidb(imdb.roidb()) and set_maskdb(imdb.maskdb())" if self._with_masks else "set_roidb"
            raise LayerError(f"has no data; hand them over before the first pass: layer.{wanted}")
        if cfg.TRAIN.IMS_PER_BATCH != 1:
            raise LayerError(f"takes one image at a time; TRAIN.IMS_PER_BATCH is {cfg.TRAIN.IMS_PER_BATCH}")
        for _ in range(2 * len(self._roidb)):
            draw, prepare = self._next()
            try:
                return prepare.result() if isinstance(prepare, Future) else self._prepare(draw)
            except CaffeError as error:
                self._pass_over(str(self._roidb[draw.entry]["image"]), error)
        raise LayerError(f"no image can be read any more; the last trouble: {[*self.unreadable.values()][-1]}")

    def _next(self) -> tuple[Draw, Future[Tops] | None]:
        """The next image to deliver, and its preparation where a thread has it."""
        if self._threads is None:
            return self._order.draw(), None
        while len(self._queue) <= self._depth:
            self._enqueue(self._order.draw())
        return self._queue.popleft()

    def _enqueue(self, draw: Draw) -> None:
        assert self._threads is not None
        self._queue.append((draw, self._threads.submit(self._prepare, draw)))

    def _pass_over(self, path: str, error: CaffeError) -> None:
        if self._refuse:
            raise LayerError(str(error)) from error
        if path not in self.unreadable:
            self.unreadable[path] = str(error)
            logger.warning(f"{path} is passed over, {len(self.unreadable)} so far: {error}")

    def _prepare(self, draw: Draw) -> Tops:
        """The tops for one image. Raises CaffeError when the image cannot be used."""
        entry = self._roidb[draw.entry]
        image = read_image(str(entry["image"]))
        if image.shape[:2] != (entry["height"], entry["width"]):
            sizes = f"{image.shape[1]} x {image.shape[0]}", f"{entry['width']} x {entry['height']}"
            raise LayerError(f"image {entry['image']}: has {sizes[0]} pixels, its entry in the roidb says {sizes[1]}")
        if entry["flipped"]:
            image = image[:, ::-1]
        scaled, scale = scale_image(image, draw.target_size, cfg.TRAIN.MAX_SIZE)
        classes = np.asarray(entry["gt_classes"])
        objects = np.flatnonzero(classes)
        boxes = np.asarray(entry["boxes"], np.float64)[objects] * scale
        tops = [
            np.ascontiguousarray(scaled.transpose(2, 0, 1)[None]),
            np.array([[*scaled.shape[:2], scale]], np.float32),
            np.concatenate([boxes, classes[objects, None]], axis=1).astype(np.float32),
        ]
        if self._with_masks:
            masks = self._maskdb[draw.entry]["gt_masks"]
            tops += _padded([np.asarray(masks[i]) for i in objects])
        return tuple(torch.from_numpy(top) for top in tops)

    def stream_state(self) -> dict[str, Any]:
        """The order, the position in it and what has been drawn ahead, for a snapshot."""
        return {**self._order.state(), "drawn": [list(draw) for draw, _ in self._queue]}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`; the data must have been handed over.

        Raises LayerError when they are others by now.
        """
        with restoring():
            drawn = [Draw(int(entry), target_size) for entry, target_size in state["drawn"]]
            if any(not 0 <= draw.entry < len(self._roidb) for draw in drawn):
                raise ValueError(f"it names images beyond the {len(self._roidb)} there are now")
            self._order.set_state(state)
            self._queue.clear()
            if self._threads is not None:
                for draw in drawn:
                    self._enqueue(draw)


def _own_stream() -> np.random.RandomState:
    """A generator that nobody else draws from; one draw from `caffe_bridge.randomness` seeds it."""
    return np.random.RandomState(int(torch.randint(1 << 32, (), generator=randomness.generator())))


def _check_entry(entry: Mapping[str, Any], classes: int) -> None:
    missing = [key for key in ("image", "width", "height", "flipped", "boxes", "gt_classes") if key not in entry]
    if missing:
        raise LayerError(f"{entry.get('image', 'an entry of the roidb')}: lacks {', '.join(missing)}")
    boxes, labels = np.asarray(entry["boxes"]), np.asarray(entry["gt_classes"])
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise LayerError(f"{entry['image']}: boxes have shape {boxes.shape}, their classes {labels.shape}")
    if not labels.any():
        raise LayerError(f"{entry['image']}: has no object to train on; leave it out of the roidb")
    if labels.min() < 0 or labels.max() >= classes:
        raise LayerError(f"{entry['image']}: has classes {labels.min()} to {labels.max()}, num_classes is {classes}")


def _padded(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Masks as one array [G, largest height, largest width], and their sizes [G, 2], float32."""
    sizes = np.array([mask.shape for mask in masks])
    padded = np.zeros((len(masks), *sizes.max(0)), np.float32)
    for place, mask in zip(padded, masks):
        place[: mask.shape[0], : mask.shape[1]] = mask
    return [padded, sizes.astype(np.float32)]
