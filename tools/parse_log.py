"""Write what a training log says as two CSV files, LOG.train and LOG.test."""

from __future__ import annotations

import argparse
import csv
import os
import sys

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError
from caffe_bridge.training_log import Row, read


def write_csv(path: str, rows: list[Row], delimiter: str, verbose: bool) -> None:
    """Write rows under a header of all their columns; no file if there are none."""
    if not rows:
        if verbose:
            print(f"Not writing {path}; no lines to write")
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    if verbose:
        print(f"Wrote {path}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logfile_path", help="log of a training")
    parser.add_argument("output_dir", help="folder for the CSV files")
    parser.add_argument("--verbose", action="store_true", help="say which files were written")
    parser.add_argument("--delimiter", default=",", help="between columns (default ',')")
    arguments = parser.parse_args(argv)
    if len(arguments.delimiter) != 1:
        raise CaffeError(f"--delimiter is one character, not '{arguments.delimiter}'")
    log = read(arguments.logfile_path)
    for kind, rows in (("train", log.train), ("test", log.test)):
        path = os.path.join(arguments.output_dir, f"{os.path.basename(arguments.logfile_path)}.{kind}")
        write_csv(path, rows, arguments.delimiter, arguments.verbose)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
