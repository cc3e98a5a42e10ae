"""Write what a net computes of its data as a database: blobs of a trained net as features."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from caffe_bridge import log
from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError

logger = logging.getLogger("caffe_bridge")

BACKENDS = ("lmdb", "leveldb", "hdf5")


class _Output(Protocol):
    def write(self, features: np.ndarray) -> None:
        """Append a batch of features (N, ...)."""


class _Database:
    """Datums with float_data, one for each item, under keys that count from 0 with 10 digits."""

    def __init__(self, writer: Any):
        self._writer, self._count = writer, 0

    def write(self, features: np.ndarray) -> None:
        from caffe_bridge import schema

        if features.ndim > 4:
            raise CaffeError(f"a blob of shape {features.shape} has more axes than a Datum")
        channels, height, width = (*features.shape[1:], 1, 1, 1)[:3]
        for item in features.reshape(len(features), -1):
            datum = schema.Datum(channels=channels, height=height, width=width, float_data=item)
            self._writer.put(b"%010d" % self._count, datum.SerializeToString())
            self._count += 1


class _Hdf5:
    """One data set, named after the blob as an HDF5Data layer's top would be, that grows batch by batch."""

    def __init__(self, file: Any, blob: str):
        self._file, self._blob = file, blob

    def write(self, features: np.ndarray) -> None:
        if self._blob not in self._file:
            shape = features.shape[1:]
            self._file.create_dataset(self._blob, (0, *shape), "f4", maxshape=(None, *shape), chunks=True)
        dataset = self._file[self._blob]
        if dataset.shape[1:] != features.shape[1:]:
            raise CaffeError(f"blob '{self._blob}' changes its shape: {dataset.shape[1:]}, then {features.shape[1:]}")
        dataset.resize(len(dataset) + len(features), axis=0)
        dataset[-len(features) :] = features


@contextlib.contextmanager
def opened(path: str, blob: str, backend: str) -> Iterator[_Output]:
    """A new output; raises CaffeError when there is something at `path` already."""
    logger.info("Opening dataset %s", path)
    if backend == "hdf5":
        import h5py

        try:
            file = h5py.File(path, "x")
        except OSError as error:
            raise CaffeError(f"{path}: cannot be made: {error}") from error
        with file:
            yield _Hdf5(file, blob)
    else:
        from caffe_bridge.database import DatabaseWriter

        with DatabaseWriter(path, backend.upper()) as writer:
            yield _Database(writer)


def extract(net: Any, outputs: list[tuple[str, _Output]], batches: int) -> int:
    """Run the net and append its blobs to the outputs batch by batch; returns the number of items of the first."""
    count = 0
    for _ in range(batches):
        net._forward(0, len(net.layers) - 1)
        for name, output in outputs:
            features = net.blobs[name].data
            if not features.ndim:
                raise CaffeError(
                    f"blob '{name}' is one number for a whole batch; features need one item for each image"
                )
            output.write(features)
        first = net.blobs[outputs[0][0]].shape[0]
        if count // 1000 != (count + first) // 1000:
            logger.info("Extracted features of %d query images", count + first)
        count += first
    return count


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", help="weights of the trained net")
    parser.add_argument("model", help="net prototxt with a data layer; run in phase TEST")
    parser.add_argument("blobs", help="blob names, separated by ','")
    parser.add_argument("outputs", help="for each blob a database to make, separated by ','")
    parser.add_argument("batches", type=int, help="number of batches to run")
    parser.add_argument("db_type", choices=BACKENDS, help="kind of database; hdf5 is ours, readable by HDF5Data")
    parser.add_argument("mode", nargs="?", default="CPU", choices=("CPU", "GPU"), help="where to run (default: CPU)")
    parser.add_argument("device_id", nargs="?", default="0", help="which GPU; DEVICE_ID=0 is understood as well")
    arguments = parser.parse_args(argv)
    blobs, outputs = arguments.blobs.split(","), arguments.outputs.split(",")
    if len(blobs) != len(outputs):
        raise CaffeError(f"{len(blobs)} blobs but {len(outputs)} outputs")
    if arguments.batches < 1:
        raise CaffeError(f"the number of batches is at least 1, not {arguments.batches}")

    from caffe_bridge import pycaffe
    from caffe_bridge.tools import _caffe_flags

    log.show()
    device = arguments.device_id.removeprefix("DEVICE_ID=")
    _caffe_flags.choose_device(_caffe_flags.gpus(device) if arguments.mode == "GPU" else [])
    pycaffe.install()
    net = pycaffe.Net(arguments.model, pycaffe.TEST)
    net.copy_from(arguments.weights)
    for name in blobs:
        if name not in net.blobs:
            raise CaffeError(f"{arguments.model} has no blob '{name}'; it has {', '.join(net.blobs)}")
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(opened(path, name, arguments.db_type)) for path, name in zip(outputs, blobs)]
        logger.info("Extracting Features")
        count = extract(net, list(zip(blobs, made)), arguments.batches)
    logger.info("Extracted features of %d query images for %s", count, ", ".join(blobs))
    logger.info("Successfully extracted the features!")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
