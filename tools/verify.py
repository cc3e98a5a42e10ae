"""Compare a net, blob by blob, with what your own Caffe computed.

Record there with tools/dump_reference.py (one file that needs only pycaffe and NumPy), verify here:

    python dump_reference.py --def deploy.prototxt --net weights.caffemodel --seed 1 --out dump.npz
    caffe-bridge verify --def deploy.prototxt --net weights.caffemodel --reference dump.npz --html report.html

Status 0 means that every parameter, blob and diff agrees, 1 that some do not.
"""

from __future__ import annotations

import argparse
import html
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from caffe_bridge import pycaffe
from caffe_bridge.cli import documented_parser, run
from caffe_bridge.errors import CaffeError
from caffe_bridge.verification import TOLERANCE, Recording, Row, compare, first_divergence

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse } th, td { padding: 2px 10px; text-align: left; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums } tr.given { color: #888 }
tr.differs { background: #fde8e6 } tr.first { background: #f9b4ac; font-weight: bold; outline: 2px solid #b3261e }
.bar { width: 160px; height: 12px; background: #eee } .bar div { height: 100%; background: #3a7d44 }
tr.differs .bar div, tr.first .bar div { background: #b3261e }
"""
BAR_FROM, BAR_TO = -8.0, 0.0  # powers of ten of the relative error at the bar's ends


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = documented_parser(__doc__)
    parser.add_argument("--def", dest="prototxt", required=True, metavar="PROTOTXT", help="the net")
    parser.add_argument("--net", dest="weights", required=True, metavar="WEIGHTS", help="its weights")
    parser.add_argument("--reference", required=True, metavar="NPZ", help="what dump_reference.py wrote")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the report as one HTML page")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="greatest difference over the blob's greatest magnitude that counts as equal (default: %(default)g)",
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="give every layer the recorded values, to judge each alone (by default errors add up)",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--gpu", type=int, metavar="N", help="run on this GPU")
    place.add_argument("--cpu", action="store_true", help="run on the CPU (the default)")
    args = parser.parse_args(argv)
    if not 0 <= args.tolerance < math.inf:
        raise CaffeError(f"--tolerance {args.tolerance:g}: a number from 0 up")
    return args


def columns(row: Row) -> tuple[str, ...]:
    """A row as text: what, layer, type, name, shape, greatest and relative error, share outside, verdict."""
    shape = " x ".join(map(str, row.shape)) or "-"
    numbers = ("", "", "") if row.note else (f"{row.error:.1e}", f"{row.relative:.1e}", f"{row.outside:.2%}")
    return row.what, row.layer, row.type, row.name, shape, *numbers, row.verdict


HEADINGS = ("what", "layer", "type", "blob", "shape", "max error", "relative", "outside", "verdict")


def text_table(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal, with notes at the right and an arrow at the first divergence."""
    cells = [HEADINGS, *map(columns, rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    first = first_divergence(rows)
    notes = ["", *(row.note for row in rows)]
    lines = []
    for i, (line, note) in enumerate(zip(cells, notes)):
        text = "  ".join(
            cell.rjust(width) if 5 <= k <= 7 else cell.ljust(width) for k, (cell, width) in enumerate(zip(line, widths))
        )
        arrow = "<- first divergence" if first is not None and i == first + 1 else ""
        lines.append("  ".join(filter(None, (text, note, arrow))).rstrip())
    return "\n".join(lines)


def summary(rows: Sequence[Row], recording: Recording, tolerance: float) -> str:
    """One sentence on how the comparison ended."""
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("equal", "differs", "given")}
    text = f"{count['equal']} of {count['equal'] + count['differs']} arrays equal {recording.index['recorded_by']} "
    text += f"within {tolerance:g}"
    if count["given"]:
        text += f", {count['given']} taken from the recording"
    first = first_divergence(rows)
    if first is not None:
        row = rows[first]
        text += f"; first divergence: {row.what} '{row.name}' of layer '{row.layer}' ({row.type})"
    return text


def html_page(rows: Sequence[Row], title: str, sentence: str) -> str:
    """The report as one self-contained page; a bar shows the relative error from 1e-8 to 1 on a logarithmic scale."""
    first = first_divergence(rows)
    lines = []
    for i, row in enumerate(rows):
        css = f"{row.verdict} first" if i == first else row.verdict
        cells = [
            f'<td class="number">{html.escape(text)}</td>' if 5 <= k <= 7 else f"<td>{html.escape(text)}</td>"
            for k, text in enumerate(columns(row))
        ]
        bar = f'<td><div class="bar"><div style="width: {_bar_percent(row.relative):.0f}%"></div></div></td>'
        lines.append(f'<tr class="{css}">{"".join(cells)}{bar}<td>{html.escape(row.note)}</td></tr>')
    heads = "".join(f"<th>{heading}</th>" for heading in (*HEADINGS, "1e-8 to 1", "note"))
    body = "\n".join(lines)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1><p>{html.escape(sentence)}</p>\n"
        f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></body></html>\n"
    )


def _bar_percent(relative: float) -> float:
    if relative <= 10**BAR_FROM:
        return 0.0
    return min(100.0, 100.0 * (math.log10(relative) - BAR_FROM) / (BAR_TO - BAR_FROM)) if relative < math.inf else 100.0


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when everything agrees, 1 when something does not."""
    args = parse_args(argv)
    if args.gpu is None:
        pycaffe.set_mode_cpu()
    else:
        pycaffe.set_mode_gpu()
        pycaffe.set_device(args.gpu)
    with Recording(args.reference) as recording:
        net = pycaffe.Net(args.prototxt, args.weights, recording.phase)
        rows = list(compare(net, recording, args.tolerance, args.isolate))
        sentence = summary(rows, recording, args.tolerance)
    print(text_table(rows))
    print(sentence)
    if args.html:
        args.html.write_text(html_page(rows, f"{Path(args.prototxt).name}: verification", sentence), encoding="utf-8")
    return 0 if first_divergence(rows) is None else 1


if __name__ == "__main__":
    sys.exit(run(main))
