"""Find and draw instances in pictures with an MNC net.

Without --net the weights are drawn by a fixed recipe, and the net is first compared with a recording of the original
program; without --images it looks at a generated scene. So `demo` with no arguments shows, with nothing to download,
that everything works: status 0 means that the numbers agree.

    caffe-bridge demo
    caffe-bridge demo --net mnc_model.caffemodel.h5 --images photos/ 'more/*.jpg' --out found --gpu 0
"""

from __future__ import annotations

import argparse
import glob
import importlib.resources
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from caffe_bridge import config, recipe, rle
from caffe_bridge.cli import documented_parser, run
from caffe_bridge.drawing import draw_instances
from caffe_bridge.errors import CaffeError
from caffe_bridge.inference import Instances, check_net, class_names, detect, paste_mask
from caffe_bridge.net import Net
from caffe_bridge.tools._scene import draw_scene

RECORDING = Path("tests", "reference", "e2e", "mnc5_384x512.npz")  # in a source tree, not in an installed package
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SCENES = (1, 2)
UNTRAINED = "The weights are drawn by a recipe, not trained: the pictures prove that the program runs, nothing more."


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = documented_parser(__doc__)
    parser.add_argument("--def", dest="prototxt", metavar="PROTOTXT", help="test net; the packaged mnc5 by default")
    parser.add_argument("--net", dest="weights", metavar="WEIGHTS", help="a trained .caffemodel or .caffemodel.h5")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--gpu", type=int, metavar="N", help="run on this GPU")
    place.add_argument("--cpu", action="store_true", help="run on the CPU (the default where there is no GPU)")
    parser.add_argument("--images", nargs="+", metavar="PATH", help="image files, folders of them, or glob patterns")
    parser.add_argument("--out", type=Path, default=Path("output", "demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--thresh", type=float, default=0.5, help="leave out lower scores (default: %(default)s)")
    parser.add_argument("--cfg", metavar="YAML", help="settings, as MNC's experiments/*.yml")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", help="single settings, applied last")
    return parser.parse_args(argv)


def apply_settings(args: argparse.Namespace) -> None:
    """Merge --cfg, then --set into MNC's defaults."""
    config.use("mnc")
    if args.cfg:
        config.cfg_from_file(args.cfg)
    config.cfg_from_list(args.set)


def choose_device(gpu: int | None, cpu: bool) -> torch.device:
    """The GPU asked for; else the first one if there is any and the CPU was not asked for."""
    count = torch.cuda.device_count()
    if gpu is not None and not 0 <= gpu < count:
        raise CaffeError(f"--gpu {gpu}: torch finds {count or 'no'} GPU{'' if count == 1 else 's'} here")
    if cpu or not count:
        return torch.device("cpu")
    return torch.device("cuda", gpu or 0)


def find_images(patterns: Sequence[str]) -> list[Path]:
    """The files that paths, folders and glob patterns stand for, each once; a path that matches nothing stays in."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not files:
                raise CaffeError(f"{path}: no images in this folder (names that end in {', '.join(sorted(SUFFIXES))})")
            found.update(dict.fromkeys(files))
        elif not path.exists() and glob.has_magic(pattern):
            files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
            if not files:
                raise CaffeError(f"no file matches '{pattern}'")
            found.update(dict.fromkeys(files))
        else:
            found[path] = None
    return list(found)


def read_image(path: Path) -> np.ndarray:
    """The image of a file, uint8 [H, W, 3], blue, green, red; raises CaffeError when it is none."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise CaffeError(f"{path}: {error.err}") from error
    if image is None:
        raise CaffeError(f"{path}: not an image that OpenCV can read")
    return image


def results(instances: Instances, image_id: int, file_name: str, image_size: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's result entries of one image: bbox is (x, y, width, height) in pixels, masks are compressed RLE."""
    entries = []
    for box, class_id, score, mask in zip(instances.boxes, instances.classes, instances.scores, instances.masks):
        x1, y1, x2, y2 = box.tolist()
        entries.append(
            {
                "image_id": image_id,
                "file_name": file_name,
                "category_id": int(class_id),
                "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
                "score": float(score),
                "segmentation": rle.encode(paste_mask(mask, box, image_size)),
            }
        )
    return entries


def matches_recording(net: Net, recording: Path) -> bool:
    """Run a net filled by the recipe on the recording's input, print blob, error and verdict, and say if all agree.

    It runs under MNC's default settings, as the recording did, and leaves them in force.
    """
    recorded = dict(np.load(recording))
    inputs = recipe.inputs(*recorded["hw"].tolist())
    config.use("mnc")
    with torch.no_grad():
        blobs = net(**inputs, blobs=[name for name in recorded if name != "hw"])
    got = {name: blob.cpu().numpy() for name, blob in blobs.items()}
    print(f"Compared with the original program ({recording.name}):")
    print(f"  {'blob':<22} {'error':>8}  verdict")
    passed = True
    for verdict in recipe.compare(got, recorded):
        print(f"  {verdict.blob:<22} {verdict.error:8.1e}  {'ok  ' if verdict.passed else 'FAIL'} {verdict.text}")
        passed &= verdict.passed
    return passed


def packaged_prototxt() -> str:
    """The path of the mnc5 test net that comes with caffe-bridge."""
    return str(importlib.resources.files("caffe_bridge.prototxt") / "mnc5" / "test.prototxt")


def output_names(paths: Sequence[Path]) -> list[str]:
    """A PNG name for each path, numbered where stems repeat."""
    names: list[str] = []
    for path in paths:
        name, number = f"{path.stem}.png", 1
        while name in names:
            number += 1
            name = f"{path.stem}_{number}.png"
        names.append(name)
    return names


def process(net: Net, paths: Sequence[Path], out: Path, threshold: float) -> int:
    """Detect and draw in every image, write instances.json; returns how many succeeded, reporting the others."""
    entries: list[dict[str, Any]] = []
    done = 0
    quiet = True if len(paths) < 2 else None  # None: a progress bar on terminals only
    for i, (path, name) in enumerate(tqdm(list(zip(paths, output_names(paths))), unit="image", disable=quiet)):
        try:
            image = read_image(path)
            start = time.perf_counter()
            found = detect(net, image).above(threshold).cpu()
            seconds = time.perf_counter() - start
        except CaffeError as error:
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            continue
        except OSError as error:
            tqdm.write(f"skipped: {path}: {error.strerror}", file=sys.stderr)
            continue
        names = class_names(max([20, *found.classes.tolist()]))
        cv2.imwrite(str(out / name), draw_instances(image, found, names))
        entries += results(found, i + 1, path.name, image.shape[:2])
        tqdm.write(f"{path}: {len(found)} instances, {seconds:.1f} s")
        done += 1
    (out / "instances.json").write_text(json.dumps(entries), encoding="utf-8")
    return done


def write_scenes(out: Path) -> list[Path]:
    """Generate the pictures to look at where the user brought none."""
    paths = []
    for seed in SCENES:
        path = out / f"scene_{seed}.bmp"
        cv2.imwrite(str(path), draw_scene(seed))
        paths.append(path)
    return paths


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when at least one image was done, 2 when none could be, 1 when the net disagrees with the recording."""
    args = parse_args(argv)
    device = choose_device(args.gpu, args.cpu)
    apply_settings(args)
    paths = find_images(args.images) if args.images else None

    net = Net(args.prototxt or packaged_prototxt(), args.weights)
    check_net(net)
    if args.weights is None:
        print(UNTRAINED)
        recipe.fill(net)
    net.to(device)
    if args.weights is None and args.prototxt is None:
        recording = Path(__file__).resolve().parent.parent / RECORDING
        if not recording.exists():
            print("Not compared with the original program: the recording is only in the source tree.")
        elif not matches_recording(net, recording):
            print("The net disagrees with the original program.", file=sys.stderr)
            return 1
        apply_settings(args)

    args.out.mkdir(parents=True, exist_ok=True)
    done = process(net, paths or write_scenes(args.out), args.out, args.thresh)
    print(f"Pictures and instances.json are in {args.out}")
    return 0 if done else 2


if __name__ == "__main__":
    sys.exit(run(main))
