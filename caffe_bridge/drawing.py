"""Drawing instances onto a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from caffe_bridge.inference import Instances, paste_mask

MASK_OPACITY = 0.5


def palette(count: int) -> np.ndarray:
    """The first `count` colours of PASCAL VOC's colour map, uint8 [count, 3], red, green, blue; the first is black.

    Bits 0, 1 and 2 of the index give the top bits of red, green and blue, bits 3 to 5 the next ones, and so on.
    """
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for level in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * level + channel) & 1) << (7 - level)).astype(np.uint8)
    return colours


def draw_instances(image: np.ndarray, instances: Instances, names: Sequence[str]) -> np.ndarray:
    """The image with mask, outline, box, class name and score of every instance; the best are drawn last, on top.

    Args:
        image: uint8 [H, W, 3], blue, green, red; not changed.
        instances: what to draw, in this image's pixels.
        names: names of classes 1, 2, ...
    """
    drawn = image.copy()
    found = instances.cpu()
    colours = palette(len(found) + 1)[1:, ::-1]
    size = image.shape[:2]
    order = found.scores.argsort(stable=True).tolist()
    for i in order:
        mask = paste_mask(found.masks[i], found.boxes[i], size)
        drawn[mask] = (MASK_OPACITY * colours[i] + (1 - MASK_OPACITY) * drawn[mask]).round().astype(np.uint8)
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outline, -1, colours[i].tolist(), 1)
    for i in order:
        x1, y1, x2, y2 = (int(v) for v in found.boxes[i].round())
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colours[i].tolist(), 2)
        label = f"{names[int(found.classes[i]) - 1]} {float(found.scores[i]):.2f}"
        _write(drawn, label, (x1, y1), colours[i])
    return drawn


def _write(image: np.ndarray, text: str, corner: tuple[int, int], colour: np.ndarray) -> None:
    """Text on a filled box above `corner`, or below it at the image's upper edge."""
    font, font_scale = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    (width, height), below = cv2.getTextSize(text, font, font_scale, 1)
    x = max(0, min(corner[0], image.shape[1] - width - 2))
    bottom = max(corner[1], height + below + 2)
    cv2.rectangle(image, (x, bottom - height - below - 2), (x + width + 2, bottom), colour.tolist(), cv2.FILLED)
    ink = (0, 0, 0) if colour @ [0.114, 0.587, 0.299] > 128 else (255, 255, 255)
    cv2.putText(image, text, (x + 1, bottom - below), font, font_scale, ink, 1, cv2.LINE_AA)
