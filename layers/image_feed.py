"""What the data layers of MNC, CFM and py-faster-rcnn have in common: the draws, preparing ahead, and bad images."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from caffe_bridge import randomness
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.images import read_image
from caffe_bridge.layers import cascade
from caffe_bridge.layers.base import Layer, Shape, eager
from caffe_bridge.scaling import scale_image
from caffe_bridge.stream import restoring

Tops = tuple[torch.Tensor, ...]

logger = logging.getLogger(__name__)

_AHEAD = 2  # batches drawn ahead for each worker


class Draw(NamedTuple):
    """A batch: entries of the database, and the pixels each image's short side is scaled to.

    `seed` starts the generator that RoIs are sampled with; None stands for NumPy's global one.
    """

    entries: tuple[int, ...]
    target_sizes: tuple[float, ...]
    seed: int | None

    def random(self) -> Any:
        """What to sample RoIs with."""
        return np.random if self.seed is None else np.random.RandomState(self.seed)


class DrawOrder:
    """Which entries come next and at which scales, by the random draws of the original data layers.

    A new permutation is drawn when only one batch of the last is left, which is therefore never used; then the scales
    are drawn, even from one.

    Args:
        random: the `numpy.random` module, whose global generator the samplers share; or a `RandomState`.
    """

    def __init__(self, random: Any):
        self._random = random
        self._shuffle: Callable[[Any], np.ndarray] = lambda random: np.empty(0, np.int64)
        self._order = np.empty(0, np.int64)
        self._position = 0

    def start(self, shuffle: Callable[[Any], np.ndarray]) -> None:
        """Begin with an order that `shuffle` makes of random numbers; it will be asked again."""
        self._shuffle = shuffle
        self._order, self._position = shuffle(self._random), 0

    def draw(self, images: int) -> Draw:
        """The next batch of `images` entries. Raises LayerError when cfg.TRAIN.SCALES is empty."""
        scales = cfg.TRAIN.SCALES
        if not scales:
            raise LayerError("TRAIN.SCALES is empty; it needs the pixels of the short side, such as (600,)")
        if self._position + images >= len(self._order):
            self.start(self._shuffle)
        entries = self._order[self._position : self._position + images].tolist()
        self._position += images
        chosen = self._random.randint(0, high=len(scales), size=len(entries))
        seed = None if self._random is np.random else int(self._random.randint(1 << 31))
        return Draw(tuple(entries), tuple(scales[i] for i in chosen), seed)

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
        if not np.array_equal(np.sort(order), np.arange(len(self._order))) or position < 0:
            raise ValueError(f"it is of {len(order)} images, there are {len(self._order)} now")
        if self._random is not np.random and saved["generator"] is not None:
            key = np.array(saved["generator"]["key"], np.uint32)
            inner = {"key": key, "pos": int(saved["generator"]["pos"])}
            self._random.set_state({"bit_generator": "MT19937", "state": inner, "has_gauss": 0, "gauss": 0.0})
        self._order, self._position = order, position


class ImageFeed(Layer):
    """A data layer that draws images from a database; subclasses say which, and make the tops of them.

    `param_str`: num_classes; prefetch, the number of threads that prepare batches ahead (0); unreadable, what to do
    about an image that cannot be used any more: "skip" its batch (and log and count it in `unreadable`) or "refuse".

    Without prefetching, draws come from NumPy's global generator in the original's order. With it, the samplers of
    other layers keep that generator for themselves, and the layer draws from one of its own.

    Attributes:
        unreadable: file names of a batch to the reason it was passed over.
    """

    bottoms = (0, 0)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        values = cascade.options(self.param, "num_classes")
        self.classes = cascade.class_count(values)
        workers = values.get("prefetch", 0)
        if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= 64:
            raise LayerError(f"param_str: 'prefetch' is a number of threads from 0 to 64, not {workers!r}")
        unreadable = values.get("unreadable", "skip")
        if unreadable not in ("skip", "refuse"):
            raise LayerError(f"param_str: 'unreadable' is skip or refuse, not {unreadable!r}")
        self._refuse = unreadable == "refuse"
        self._threads = ThreadPoolExecutor(workers) if workers else None
        self._depth = _AHEAD * workers
        self._queue: deque[tuple[Draw, Future[Tops]]] = deque()
        self._order = DrawOrder(_own_stream() if workers else np.random)
        self._count = 0
        self.unreadable: dict[str, str] = {}

    def images_per_batch(self) -> int:
        """How many images make a batch. Raises LayerError when the settings do not fit the layer."""
        images = cfg.TRAIN.IMS_PER_BATCH
        if isinstance(images, bool) or not isinstance(images, int) or images < 1:
            raise LayerError(f"TRAIN.IMS_PER_BATCH is a number of images, not {images!r}")
        return images

    def name_of(self, entry: int) -> str:
        """The file that stands for an entry in messages."""
        raise NotImplementedError

    def prepare(self, draw: Draw) -> Tops:
        """The tops for a batch. Raises CaffeError when one of its images cannot be used."""
        raise NotImplementedError

    def restart(self, count: int, shuffle: Callable[[Any], np.ndarray]) -> None:
        """Begin with a database of `count` entries in the order that `shuffle` makes of random numbers."""
        self._count = count
        self._queue.clear()
        self._order.start(shuffle)

    @eager
    def forward(self) -> Tops:
        images = self.images_per_batch()
        for _ in range(2 * self._count):
            draw, prepared = self._next(images)
            try:
                return prepared.result() if prepared is not None else self.prepare(draw)
            except CaffeError as error:
                self._pass_over(", ".join(self.name_of(entry) for entry in draw.entries), error)
        raise LayerError(f"no image can be read any more; the last trouble: {[*self.unreadable.values()][-1]}")

    def skip(self) -> None:
        """Leave the next batch to another process: draw as `forward` does, and read nothing."""
        self._next(self.images_per_batch())

    def _next(self, images: int) -> tuple[Draw, Future[Tops] | None]:
        """The next batch to deliver, and its preparation where a thread has it."""
        if self._threads is None:
            return self._order.draw(images), None
        while len(self._queue) <= self._depth:
            self._enqueue(self._order.draw(images))
        return self._queue.popleft()

    def _enqueue(self, draw: Draw) -> None:
        assert self._threads is not None
        self._queue.append((draw, self._threads.submit(self.prepare, draw)))

    def _pass_over(self, names: str, error: CaffeError) -> None:
        if self._refuse:
            raise LayerError(str(error)) from error
        if names not in self.unreadable:
            self.unreadable[names] = str(error)
            logger.warning(f"{names} is passed over, {len(self.unreadable)} so far: {error}")

    def stream_state(self) -> dict[str, Any]:
        """The order, the position in it and what has been drawn ahead, for a snapshot."""
        return {**self._order.state(), "drawn": [list(draw) for draw, _ in self._queue]}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`; the data must have been handed over.

        Raises LayerError when they are others by now.
        """
        with restoring():
            drawn = [Draw(tuple(map(int, entries)), tuple(sizes), seed) for entries, sizes, seed in state["drawn"]]
            if any(not 0 <= entry < self._count for draw in drawn for entry in draw.entries):
                raise ValueError(f"it names images beyond the {self._count} there are now")
            self._order.set_state(state)
            self._queue.clear()
            if self._threads is not None:
                for draw in drawn:
                    self._enqueue(draw)


def _own_stream() -> np.random.RandomState:
    """A generator that nobody else draws from; one draw from `caffe_bridge.randomness` seeds it."""
    return np.random.RandomState(int(torch.randint(1 << 32, (), generator=randomness.generator())))


def check_entry(entry: Mapping[str, Any], classes: int, *more: str) -> None:
    """Raise LayerError, naming the image, for a roidb entry that is incomplete or of another number of classes.

    `more` names arrays it must have besides boxes and gt_classes, with as many rows.
    """
    missing = [key for key in ("image", "width", "height", "flipped", "boxes", "gt_classes", *more) if key not in entry]
    if missing:
        raise LayerError(f"{entry.get('image', 'an entry of the roidb')}: lacks {', '.join(missing)}")
    boxes, labels = np.asarray(entry["boxes"]), np.asarray(entry["gt_classes"])
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise LayerError(f"{entry['image']}: boxes have shape {boxes.shape}, their classes {labels.shape}")
    for key in more:
        if len(entry[key]) != len(boxes):
            raise LayerError(f"{entry['image']}: has {len(boxes)} boxes and {len(entry[key])} rows of {key}")
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise LayerError(f"{entry['image']}: has classes {labels.min()} to {labels.max()}, num_classes is {classes}")


def check_objects(entry: Mapping[str, Any]) -> None:
    """Raise LayerError, naming the image, for a roidb entry without ground truth."""
    if not np.asarray(entry["gt_classes"]).any():
        raise LayerError(f"{entry['image']}: has no object to train on; leave it out of the roidb")


class ScaledImage(NamedTuple):
    """An image of a batch: float32 [h, w, 3], the factor it was scaled by, and its (height, width) before."""

    pixels: np.ndarray
    scale: float
    size: tuple[int, int]


def read_scaled(path: str, flipped: bool, target_size: float, size: Sequence[int] | None = None) -> ScaledImage:
    """An image scaled for training (`scaling.scale_image`), mirrored if `flipped`.

    `size` is the (height, width) its file must have. Raises CaffeError when it cannot be read or has not.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if size is not None and (height, width) != tuple(size):
        raise LayerError(
            f"image {path}: has {width} x {height} pixels, its entry in the roidb says {size[1]} x {size[0]}"
        )
    pixels, scale = scale_image(image[:, ::-1] if flipped else image, target_size, cfg.TRAIN.MAX_SIZE)
    return ScaledImage(pixels, scale, (height, width))


def truth_of(entry: Mapping[str, Any], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth of a roidb entry: row numbers, and boxes with classes float32 [G, 5] in scaled-image pixels."""
    classes = np.asarray(entry["gt_classes"])
    objects = np.flatnonzero(classes)
    boxes = np.asarray(entry["boxes"], np.float64)[objects] * scale
    return objects, np.concatenate([boxes, classes[objects, None]], axis=1).astype(np.float32)
