"""Make two LMDBs of handwritten digits, digits_train_lmdb and digits_test_lmdb, from those scikit-learn ships."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

import numpy as np

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError

DIGIT, BORDER = 20, 4  # pixels; MNIST's digits lie so in their 28 x 28 images
TEST_EVERY = 5


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (1797, 28, 28), and their labels (1797,).

    Raises:
        CaffeError: scikit-learn is not installed.
    """
    import cv2

    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise CaffeError("the digits come with scikit-learn: pip install 'caffe-bridge[digits]'") from error
    loaded = datasets.load_digits()
    small = (loaded.images * (255 / 16)).astype(np.uint8)
    images = np.stack([cv2.resize(image, (DIGIT, DIGIT), interpolation=cv2.INTER_CUBIC) for image in small])
    return np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER))), loaded.target


def write(path: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write images (N, height, width) as an LMDB of Datums, under keys that count from 0 with 8 digits."""
    from caffe_bridge.database import DatabaseWriter
    from caffe_bridge.datum import make_datum

    with DatabaseWriter(path, "LMDB") as writer:
        for i, (image, label) in enumerate(zip(images, labels)):
            writer.put(b"%08d" % i, make_datum(image[:, :, None], int(label)).SerializeToString())
    print(f"{path}: {len(images)} images")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"Every {TEST_EVERY}th image is a test image.")
    parser.add_argument("folder", nargs="?", default=".", help="where to make them (default: here)")
    folder = parser.parse_args(argv).folder
    images, labels = digits()
    test = np.arange(len(images)) % TEST_EVERY == 0
    for name, chosen in (("train", ~test), ("test", test)):
        write(os.path.join(folder, f"digits_{name}_lmdb"), images[chosen], labels[chosen])
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
