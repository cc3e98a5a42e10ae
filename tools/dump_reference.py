#!/usr/bin/env python
# mypy: ignore-errors
# ruff: noqa: B904, UP004, UP010, UP024, UP031
"""Record everything a net computes in your Caffe, for `caffe-bridge verify` to compare with.

Copy this one file to where your Caffe is; it needs nothing but pycaffe and NumPy, under Python 2.7 or 3:

    python dump_reference.py --def deploy.prototxt --net weights.caffemodel --seed 1 --out dump.npz

Every blob is kept as it is right after each layer that makes it, so layers that work in place are seen one by one.
Inputs come from --inputs (an .npz with one array per input blob), from an --image, or from the random --seed.
"""

from __future__ import division, print_function

import argparse
import io
import json
import os
import sys
import zipfile
import zlib

import numpy as np

try:
    from caffe_bridge.cli import run
    from caffe_bridge.errors import CaffeError as DumpError
except ImportError:  # in the original Caffe

    class DumpError(RuntimeError):
        """Something the user gave is wrong."""

    def run(main):
        """Call main; returns the exit status, 2 with one line on stderr for what the user got wrong."""
        try:
            return main() or 0
        except (DumpError, EnvironmentError) as error:
            print("%s: error: %s" % (os.path.basename(sys.argv[0]), error), file=sys.stderr)
            return 2


FORMAT = 1
CHUNK = 2**20
MEAN = (104.0, 117.0, 123.0)  # blue, green, red, taken from an --image


def parse_args(argv):
    """Read the command line."""
    summary, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--def", dest="prototxt", required=True, metavar="PROTOTXT", help="the net")
    parser.add_argument("--net", dest="weights", required=True, metavar="WEIGHTS", help="its weights")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--inputs", metavar="NPZ", help="one array for each input blob, under its name")
    source.add_argument("--image", help="fills the first input blob of three channels, scaled to its size")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs, Caffe and NumPy (default: %(default)s)")
    parser.add_argument("--train", action="store_true", help="use the TRAIN phase")
    parser.add_argument("--backward", action="store_true", help="run backward and record diffs as well")
    parser.add_argument("--gpu", type=int, metavar="N", help="run on this GPU; the CPU without it")
    parser.add_argument("--out", required=True, metavar="NPZ", help="the file to write")
    args = parser.parse_args(argv)
    for path in (args.prototxt, args.weights, args.inputs, args.image):
        if path is not None and not os.path.isfile(path):
            raise DumpError("no such file: %s" % path)
    return args


class Archive(object):
    """An .npz that is written array by array, so that no more than one is held in memory."""

    def __init__(self, path):
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True)

    def add(self, key, array):
        """Write an array under a key that np.load will know it by."""
        data = io.BytesIO()
        np.lib.format.write_array(data, array)
        self._zip.writestr(key + ".npy", data.getvalue())

    def add_floats(self, key, array):
        """Write a blob as float32."""
        self.add(key, np.array(array, dtype="<f4", order="C"))

    def close(self):
        """Finish the file."""
        self._zip.close()


def given_inputs(net, path):
    """Input name to array, from an .npz."""
    try:
        arrays = dict(np.load(path))
    except (IOError, ValueError, zipfile.BadZipfile) as error:
        raise DumpError("%s: not an .npz: %s" % (path, error))
    if set(arrays) != set(net.inputs):
        raise DumpError("%s: has %s, the net takes %s" % (path, ", ".join(sorted(arrays)), ", ".join(net.inputs)))
    return arrays


def image_inputs(net, shapes, caffe, path):
    """Input name to array: the image for the first input (N, 3, H, W), (H, W, 1) for im_info."""
    colour = [name for name in net.inputs if len(shapes[name]) == 4 and shapes[name][1] == 3]
    others = [name for name in net.inputs if name not in colour[:1] and name != "im_info"]
    if not colour or others:
        raise DumpError("an image alone cannot feed the inputs %s; use --inputs" % ", ".join(net.inputs))
    _, _, height, width = shapes[colour[0]]
    image = caffe.io.resize_image(caffe.io.load_image(path), (height, width))
    data = image[:, :, ::-1].transpose(2, 0, 1) * 255.0 - np.reshape(MEAN, (3, 1, 1))
    values = {colour[0]: np.broadcast_to(data, shapes[colour[0]])}
    if "im_info" in net.inputs:
        values["im_info"] = np.array([[height, width, 1.0]])
    return values


def random_inputs(net, shapes, seed):
    """Input name to array: normal values, with deviation 50 for images; (H, W, 1) for im_info."""
    random = np.random.RandomState(seed)
    values = {}
    for name in net.inputs:
        shape = shapes[name]
        if name == "im_info":
            height, width = next(shapes[n][2:] for n in net.inputs if len(shapes[n]) == 4)
            values[name] = np.array([[height, width, 1.0]])
        else:
            image = len(shape) == 4 and shape[1] == 3
            values[name] = random.standard_normal(shape) * (50.0 if image else 1.0)
    return values


def layer_blobs(net, index, kind):
    """Names of the "top" or "bottom" blobs of a layer; old versions of pycaffe have only their numbers."""
    if hasattr(net, kind + "_names"):
        names = getattr(net, kind + "_names")[list(net._layer_names)[index]]
    else:
        all_names = list(net._blob_names)
        names = [all_names[i] for i in getattr(net, "_%s_ids" % kind)(index)]
    return [name for name in names if name in net.blobs]


def checksum(array):
    """crc32 of an array's float32 values and the norm of the array."""
    flat = np.array(array, dtype="<f4", order="C").ravel()
    crc, squares = 0, 0.0
    for begin in range(0, flat.size, CHUNK):
        part = flat[begin : begin + CHUNK]
        crc = zlib.crc32(part.tobytes(), crc)
        squares += float((part.astype("f8") ** 2).sum())
    return crc & 0xFFFFFFFF, squares**0.5


def give_output_diffs(net, archive, seed):
    """Random diffs for the outputs of a net without a loss, which would have none; returns their names."""
    if any(net.blob_loss_weights.values()):
        return []
    random = np.random.RandomState(seed)
    for name in net.outputs:
        blob = net.blobs[name]
        blob.diff[...] = random.standard_normal(blob.data.shape)
        archive.add_floats("out_diff/" + name, blob.diff)
    return list(net.outputs)


def random_state(archive, index, layer):
    """Keep the state of NumPy's generator after a data layer, whose draws `verify` does not repeat."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    key = "random/%05d" % index
    archive.add(key, np.array(keys, "<u4"))
    return {"layer": layer, "key": key, "position": int(position), "has_gauss": int(has_gauss), "gauss": float(gauss)}


def record(net, archive, backward, seed):
    """Run the net layer by layer; returns what goes into the index."""
    index = {"steps": [], "random": [], "params": [], "backward": [], "param_diffs": [], "output_diffs": []}
    for name, blobs in net.params.items():
        for k, blob in enumerate(blobs):
            crc, norm = checksum(blob.data)
            index["params"].append(
                {"layer": name, "index": k, "shape": list(blob.data.shape), "crc32": crc, "norm": norm}
            )
    names = list(net._layer_names)
    for i, name in enumerate(names):
        net._forward(i, i)
        if not layer_blobs(net, i, "bottom"):
            index["random"].append(random_state(archive, i, name))
        for k, top in enumerate(layer_blobs(net, i, "top")):
            data, key = net.blobs[top].data, "blob/%05d/%d" % (i, k)
            archive.add_floats(key, data)
            index["steps"].append(
                {"layer": name, "type": net.layers[i].type, "blob": top, "shape": list(data.shape), "key": key}
            )
    if not backward:
        return index
    for blobs in net.params.values():
        for blob in blobs:
            blob.diff[...] = 0
    index["output_diffs"] = give_output_diffs(net, archive, seed)
    for i, name in reversed(list(enumerate(names))):
        net._backward(i, i)
        for k, bottom in enumerate(layer_blobs(net, i, "bottom")):
            diff, key = net.blobs[bottom].diff, "diff/%05d/%d" % (i, k)
            archive.add_floats(key, diff)
            index["backward"].append(
                {"layer": name, "type": net.layers[i].type, "blob": bottom, "shape": list(diff.shape), "key": key}
            )
    for i, (name, blobs) in enumerate(net.params.items()):
        for k, blob in enumerate(blobs):
            key = "param_diff/%05d/%d" % (i, k)
            archive.add_floats(key, blob.diff)
            index["param_diffs"].append({"layer": name, "index": k, "shape": list(blob.diff.shape), "key": key})
    return index


def main(argv=None):
    """Returns 0 when the file has been written."""
    args = parse_args(argv)
    try:
        import caffe
    except ImportError as error:
        raise DumpError("cannot import caffe (%s): run this with the Python and the PYTHONPATH of your Caffe" % error)
    if args.gpu is None:
        caffe.set_mode_cpu()
    else:
        caffe.set_device(args.gpu)
        caffe.set_mode_gpu()
    net = caffe.Net(args.prototxt, args.weights, caffe.TRAIN if args.train else caffe.TEST)
    shapes = {name: tuple(net.blobs[name].data.shape) for name in net.inputs}
    if args.inputs:
        values = given_inputs(net, args.inputs)
    elif args.image:
        values = image_inputs(net, shapes, caffe, args.image)
    else:
        values = random_inputs(net, shapes, args.seed)

    partial = args.out + ".part"
    archive = Archive(partial)
    try:
        for name, value in values.items():
            net.blobs[name].reshape(*value.shape)
            net.blobs[name].data[...] = value
            archive.add_floats("in/" + name, net.blobs[name].data)
        np.random.seed(args.seed)
        if hasattr(caffe, "set_random_seed"):
            caffe.set_random_seed(args.seed)
        index = record(net, archive, args.backward, args.seed)
        by = "%s %s" % (caffe.__name__, getattr(caffe, "__version__", "of unknown version"))
        index.update(format=FORMAT, phase="TRAIN" if args.train else "TEST", seed=args.seed, recorded_by=by)
        index.update(inputs=list(values), prototxt=os.path.basename(args.prototxt))
        archive.add("index", np.frombuffer(json.dumps(index).encode("utf-8"), np.uint8))
        archive.close()
        os.rename(partial, args.out)
    finally:
        archive.close()
        if os.path.exists(partial):
            os.remove(partial)
    print("%s: %d blobs of %d layers" % (args.out, len(index["steps"]), len(net.layers)))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
