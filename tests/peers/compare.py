"""Compare what we write with what other programs compute from it. Prints tables; exit status 1 where one differs.

python tests/peers/compare.py --opencv4 PYTHON --opencv5 PYTHON [--work FOLDER] [--record FILE] [--layers] [NET ...]

- onnxruntime, in this environment, runs every ONNX model;
- OpenCV 5 runs every ONNX model, written for it;
- OpenCV 4.14, the last with a Caffe importer, reads every caffemodel.

The models are the recorded cases of all layers that have an ONNX export, and the nets of zoo.py. The interpreters given
have numpy and opencv-python-headless; `make peers` sets them up. --layers and names of nets choose what is compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import numpy as np
import onnx
import onnx_cases
import onnxruntime
import torch
import zoo

import caffe_bridge
from caffe_bridge import text_format
from caffe_bridge.convert.onnx_export import export_onnx
from caffe_bridge.convert.onnx_export.registry import shape_rule, type_of
from caffe_bridge.convert.onnx_export.verification import TOLERANCE, errors
from caffe_bridge.errors import CaffeError

TITLES = {"onnxruntime": "onnxruntime", "opencv5": "OpenCV 5 (ONNX)", "opencv4": "OpenCV 4.14 (Caffe)"}
PEER = Path(__file__).with_name("peer.py")

# What a peer computes differently on purpose or by mistake; by peer and case.
KNOWN: dict[str, dict[str, str]] = {
    "opencv4": {
        "layers/Deconvolution_0": "its deconvolutions have no dilation",
        **dict.fromkeys(("layers/LRN_1", "layers/LRN_3"), "reads no lrn_param.k"),
        **dict.fromkeys((f"layers/Log_{i}" for i in range(4)), "reads no log_param"),
        "layers/MVN_2": "adds eps to the variance, not to the deviation",
        **dict.fromkeys(("forks/Axpy_1", "forks/Axpy_2"), "its Axpy is another function"),
        "forks/Interp_3": "reads no pad_beg and pad_end",
        "forks/Interp_4": "takes shrink_factor or zoom_factor, not both",
        "forks/PriorBox_3": "reads no img_h, img_w",
        "forks/PriorBox_4": "reads no img_size",
        "forks/ReLU6_1": "reads no relu6_param",
        "made/Proposal": "reads no min_size",
    },
    "opencv5": {"forks/DetectionOutput_3": "eta below 1 takes a Loop, which it does not run"},
}


@dataclass
class Outcome:
    """How a model fared in a program: its largest error, or why there is none, and whether that is known."""

    error: float | None = None
    failure: str = ""
    known: str = ""

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= TOLERANCE

    def __str__(self) -> str:
        text = "-" if self.error is None else f"{self.error:.1e}"
        return text if self.passed else f"{text} ({self.known or self.failure or 'above tolerance'})"


@dataclass
class Comparison:
    """A model, the layer types it is there for, and its outcomes by program."""

    name: str
    types: list[str]
    outcomes: dict[str, Outcome] = field(default_factory=dict)


class Peers:
    """The programs, and where files for them are written.

    Args:
        interpreters: a Python with OpenCV by peer, "opencv5" and "opencv4".
        work: a folder for models and data.
    """

    def __init__(self, interpreters: dict[str, str], work: Path):
        self.interpreters, self.work = interpreters, work
        self.versions = {"onnxruntime": onnxruntime.__version__}
        self.jobs: dict[str, list[dict[str, Any]]] = {}

    def add(self, net: caffe_bridge.Net, inputs: dict[str, np.ndarray], comparison: Comparison, caffe: bool, more=()):
        """Write a net's models, run onnxruntime, and line up the jobs of the others."""
        name, blobs = comparison.name, [*net.outputs, *more]
        base = self.work / name.replace("/", "-")
        with torch.no_grad():
            wanted = net(blobs=list(more), **{blob: torch.from_numpy(array) for blob, array in inputs.items()})
        data = {f"in/{blob}": array for blob, array in inputs.items()}
        np.savez(f"{base}.npz", **data, **{f"out/{blob}": wanted[blob].numpy() for blob in blobs})
        export_onnx(net, f"{base}.onnx")
        try:
            found = errors(net, f"{base}.onnx", inputs)
            comparison.outcomes["onnxruntime"] = Outcome(max(found.values(), default=0.0))
        except CaffeError as error:
            comparison.outcomes["onnxruntime"] = Outcome(failure=str(error))
        chosen = {top for node in net.graph.nodes if shape_rule(type_of(node)) for top in node.tops}
        job = {"name": name, "data": f"{base}.npz", "rows": [blob for blob in blobs if more or blob in chosen]}
        job["by"] = more[0] if more else None
        self._add_onnx(net, f"{base}.onnx", job, comparison, blobs)
        if caffe:
            last = {top: (node.name, i) for node in net.graph.nodes for i, top in enumerate(node.tops)}
            # OpenCV has the field under the name of the fork it came from.
            text = text_format.format(net.definition.param).replace("round_mode: FLOOR", "ceil_mode: false")
            Path(f"{base}.prototxt").write_text(text)
            net.save(f"{base}.caffemodel")
            files = [f"{base}.prototxt", f"{base}.caffemodel"]
            outputs = {blob: last[blob] for blob in blobs}
            self.jobs.setdefault("opencv4", []).append({**job, "format": "caffe", "files": files, "outputs": outputs})

    def _add_onnx(self, net: caffe_bridge.Net, path: str, job: dict, comparison: Comparison, blobs: list[str]) -> None:
        try:
            export_onnx(net, path, target="opencv5")
        except CaffeError as error:
            known = KNOWN["opencv5"].get(comparison.name, "")
            comparison.outcomes["opencv5"] = Outcome(failure=str(error), known=known)
            return
        model = onnx.load(path, load_external_data=False)
        inner = {info.name: info for info in model.graph.value_info}
        names = [output.name for output in model.graph.output]
        if len(blobs) > len(names):
            model.graph.output.extend(inner[blob] for blob in blobs[len(names) :])
            onnx.save(model, path)
        outputs = dict(zip(blobs, [*names, *blobs[len(names) :]]))
        self.jobs.setdefault("opencv5", []).append({**job, "format": "onnx", "files": [path], "outputs": outputs})

    def run(self, comparisons: Iterable[Comparison]) -> None:
        """Run the jobs lined up, and remove their files."""
        by_name = {comparison.name: comparison for comparison in comparisons}
        for peer, jobs in self.jobs.items():
            paths = [self.work / f"{peer}-{what}.json" for what in ("jobs", "results")]
            paths[0].write_text(json.dumps(jobs))
            subprocess.run([self.interpreters[peer], str(PEER), *map(str, paths)], check=True)
            answer = json.loads(paths[1].read_text())
            self.versions[peer] = answer["version"]
            for name, result in answer["results"].items():
                known = KNOWN[peer].get(name, "")
                worst = max(result["errors"].values(), default=0.0) if "errors" in result else None
                by_name[name].outcomes[peer] = Outcome(worst, result.get("failure", ""), known)
        self.jobs.clear()
        for path in self.work.iterdir():
            path.unlink()


def cases(peers: Peers) -> list[Comparison]:
    """The recorded cases of the layers."""
    found = []
    for name in onnx_cases.names():
        case = onnx_cases.load(name)
        comparison = Comparison(name, case.types)
        with case.configured():
            peers.add(case.net(), case.inputs, comparison, caffe=not any("." in type_ for type_ in case.types))
        found.append(comparison)
    peers.run(found)
    return found


def nets(peers: Peers, names: Iterable[str]) -> list[Comparison]:
    """Nets of the zoo, one at a time, since their files are large."""
    found = []
    for name in names:
        entry = zoo.ZOO[name]
        net, inputs = zoo.load(name)
        comparison = Comparison(name, [])
        peers.add(net, inputs, comparison, entry.caffe, entry.more)
        del net
        peers.run([comparison])
        found.append(comparison)
        cells = (str(comparison.outcomes.get(peer, "")) for peer in TITLES)
        print(f"{name:54}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    return found


def by_type(found: Iterable[Comparison]) -> dict[str, dict[str, list[int]]]:
    """For each layer type and program how many cases agree, of how many that were given to it."""
    table: dict[str, dict[str, list[int]]] = {}
    for comparison in found:
        for type_ in comparison.types:
            for peer, outcome in comparison.outcomes.items():
                count = table.setdefault(type_, {}).setdefault(peer, [0, 0])
                count[0] += outcome.passed
                count[1] += 1
    return dict(sorted(table.items()))


def print_cases(found: list[Comparison]) -> None:
    """A line for each type, one for each case that does not agree, and one for what is refused."""
    print(f"{'layer':54}" + "".join(f"{title:>22}" for title in TITLES.values()))
    for type_, peers in by_type(found).items():
        cells = (f"{peers[peer][0]} of {peers[peer][1]}" if peer in peers else "" for peer in TITLES)
        print(f"{type_:54}" + "".join(f"{cell:>22}" for cell in cells))
    refused: dict[str, list[str]] = {}
    for comparison in found:
        for peer, outcome in comparison.outcomes.items():
            if outcome.error is None and is_acceptable(comparison, peer):
                refused.setdefault(peer, []).append(comparison.name)
            elif not outcome.passed:
                print(f"{comparison.name}: {TITLES[peer]}: {outcome}")
    for peer, names in refused.items():
        print(f"{TITLES[peer]} refuses {len(names)}: {', '.join(names)}")


def is_acceptable(comparison: Comparison, peer: str) -> bool:
    """Whether an outcome agrees or is known. OpenCV's Caffe importer may refuse layers, but no net of the zoo."""
    outcome = comparison.outcomes[peer]
    refused = peer == "opencv4" and comparison.types and outcome.error is None
    return outcome.passed or bool(outcome.known) or refused


def renew(path: Path, versions: dict[str, str], layers: Iterable[Comparison], whole: Iterable[Comparison]) -> None:
    """Put what was found into a record; nets that were not compared, and types if no case was, stay as they were."""
    record = json.loads(path.read_text()) if path.exists() else {"versions": {}, "types": {}, "nets": {}}
    record["versions"] |= versions
    record["types"] = dict(sorted((record["types"] | by_type(layers)).items()))
    found = {c.name: {peer: outcome.error for peer, outcome in c.outcomes.items()} for c in whole}
    record["nets"] = {name: errors for name in zoo.ZOO if (errors := found.get(name, record["nets"].get(name)))}
    path.write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(zoo.ZOO))
    parser.add_argument("--layers", action="store_true", help="the recorded cases of layers")
    parser.add_argument("--opencv4", required=True, metavar="PYTHON")
    parser.add_argument("--opencv5", required=True, metavar="PYTHON")
    parser.add_argument("--work", type=Path, help="folder for models (default: a temporary one)")
    parser.add_argument("--record", type=Path, help="JSON file to write, from which the documents' table is made")
    args = parser.parse_args(argv)
    if unknown := set(args.nets) - set(zoo.ZOO):
        parser.error(f"no net is called {', '.join(sorted(unknown))}")
    everything = not args.layers and not args.nets
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        peers = Peers({"opencv4": args.opencv4, "opencv5": args.opencv5}, Path(work))
        layers = cases(peers) if everything or args.layers else []
        print_cases(layers)
        whole = nets(peers, zoo.ZOO if everything else args.nets)
    print("; ".join(f"{TITLES[peer]}: {version}" for peer, version in peers.versions.items()))
    if args.record:
        renew(args.record, peers.versions, layers, whole)
    wrong = [f"{c.name} ({peer})" for c in layers + whole for peer in c.outcomes if not is_acceptable(c, peer)]
    print(f"not in agreement: {', '.join(wrong)}" if wrong else "all in agreement")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
