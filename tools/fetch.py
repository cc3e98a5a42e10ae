"""Fetch public data sets and models into the data folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from caffe_bridge import log
from caffe_bridge.archives import ARCHIVES, GROUPS
from caffe_bridge.cli import run
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError
from caffe_bridge.fetching import fetch, is_there, names_of

EPILOG = """\
Interrupted, the same command goes on where it was. What is there is not fetched again. Where a host is gone, put the
file into DATA/downloads yourself: it is checked and unpacked all the same.
"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; --list shows the names")
    parser.add_argument(
        "--list", action="store_true", help="say what there is, how large it is, and whether it is here"
    )
    parser.add_argument(
        "--data", type=Path, default=Path(cfg.DATA_DIR), metavar="DIR", help="the data folder (%(default)s)"
    )
    parser.add_argument("--from", dest="url", default="", metavar="URL", help="take one archive from there")
    parser.add_argument("--keep", action="store_true", help="keep archives in DATA/downloads after unpacking")
    parser.add_argument("--again", action="store_true", help="fetch what is there, too")
    args = parser.parse_args(argv)
    if not args.names and not args.list:
        parser.error("name what to fetch, or give --list")
    return args


def show(data: Path) -> None:
    """Print the table of archives."""
    width = max(map(len, ARCHIVES))
    for name, archive in ARCHIVES.items():
        size = f"{archive.size / 1e6:,.1f} MB" if archive.size else ""
        state = "here" if is_there(name, data) else ""
        print(f"{name:<{width}} {size:>10} {state:<5} {archive.about}")
    print("\ntogether:")
    for name, members in GROUPS.items():
        print(f"{name:<{width}} {', '.join(members)}")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when everything is there, 1 when something of several could not be fetched."""
    args = parse_args(argv)
    if args.list:
        show(args.data)
    names = list(dict.fromkeys(name for given in args.names for name in names_of(given)))
    if args.url and len(names) != 1:
        raise CaffeError(f"--from {args.url}: one address is one archive; {', '.join(names) or 'none'} are several")
    log.show()
    failed = []
    for name in names:
        if is_there(name, args.data) and not args.again:
            print(f"{name}: is there ({', '.join(str(args.data / result) for result in ARCHIVES[name].results)})")
            continue
        try:
            results = fetch(name, args.data, args.url, args.keep)
        except CaffeError as error:
            if len(names) == 1:
                raise
            print(f"error: {error}", file=sys.stderr)
            failed.append(name)
            continue
        print(f"{name}: {', '.join(map(str, results))}")
    if failed:
        print(f"not fetched: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
