"""Reads mutated files in processes of their own and reports every one that is not refused properly or read.

    python tests/fuzzing/driver.py [--cases N] [--first SEED] [--cut] [TARGET ...]
    python tests/fuzzing/driver.py --show TARGET SEED > file

A case fails when it raises anything but CaffeError, crashes the process, takes more than a second of processor time
(more for what torch.export reads), or more memory than ten times its file and 64 MB. The failure names target and seed,
which make the same file again.
"""

from __future__ import annotations

import argparse
import collections
import json
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

MAX_SECONDS = 1.0
MAX_FILE_SIZES, MAX_BYTES = 10, 64 << 20
ADDRESS_SPACE = 4 << 30  # beyond what a worker has when it begins: protects the machine
HANG, SLEEP = 20.0, 600.0  # seconds of processor time, and by the clock, after which a case is given up
_PROGRESS = struct.Struct("<qd")  # the case at hand, and the worker's processor time when it began
_BETWEEN_CASES = float("inf")


@dataclass(frozen=True)
class Job:
    """Cases first to last - 1 of a target: mutation seeds, or the lengths at which a sample is cut."""

    target: str
    first: int
    last: int
    sample: int | None = None

    def name(self, case: int) -> str:
        """How failures name a case."""
        return f"{self.target} {case}" if self.sample is None else f"{self.target} sample {self.sample} cut at {case}"

    def contents(self, samples: Sequence[bytes], case: int) -> bytes:
        """The file of a case."""
        from fuzzing.mutations import mutated
        from fuzzing.targets import TARGETS

        if self.sample is not None:
            return samples[self.sample][:case]
        return mutated(samples, TARGETS[self.target].mutations, f"{self.target} {case}")


@dataclass
class Report:
    """What became of the cases: how many were read, how many refused by which error, and what failed."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    most_bytes: int = 0

    def merge(self, other: Report) -> None:
        """Add another report's numbers."""
        self.outcomes.update(other.outcomes)
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest)
        self.most_bytes = max(self.most_bytes, other.most_bytes)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        figures = f"slowest {self.slowest:.3f} s, most memory {self.most_bytes / 1e6:.1f} MB"
        return f"{sum(self.outcomes.values())} cases: {counts}; {figures}; {len(self.failures)} failed"


def mutation_jobs(target: str, first: int, cases: int) -> list[Job]:
    """So many mutations of a target, or fewer if it is slow."""
    from fuzzing.targets import TARGETS

    count = cases // TARGETS[target].slowness
    return [Job(target, first, first + count)] if count else []


def cut_jobs(target: str, most: int | None = None) -> list[Job]:
    """Every length at which the samples of a target (the first `most`) can be cut, and the whole of each."""
    from fuzzing.targets import TARGETS

    sizes = [len(sample) for sample in TARGETS[target].samples()[:most]]
    return [Job(target, 0, size + 1, i) for i, size in enumerate(sizes)]


# -- the process that reads ----------------------------------------------------------------------------------


def work(job: Job, progress: mmap.mmap, folder: Path) -> Iterator[tuple[int, Report]]:
    """Run a job in this process; `progress` always holds the case at hand and when it began.

    Yields, after every case that failed and at the end, the next case and the report since the last time.
    """
    from fuzzing.targets import TARGETS

    target = TARGETS[job.target]
    samples = target.samples()
    path = folder / f"case{target.suffix}"
    report = Report()
    for case in range(job.first, job.last):
        data = job.contents(samples, case)
        path.write_bytes(data)
        progress[:] = _PROGRESS.pack(case, time.process_time())
        _run_case(job.name(case), target, path, MAX_FILE_SIZES * len(data) + MAX_BYTES, report)
        if report.failures and case + 1 < job.last:
            yield case + 1, report
            report = Report()
    progress[:] = _PROGRESS.pack(job.last, _BETWEEN_CASES)
    yield job.last, report


def _run_case(name: str, target: object, path: Path, allowed: int, report: Report) -> None:
    from caffe_bridge import CaffeError

    before = _reset_peak()
    start = time.process_time()
    try:
        target.read(path)  # type: ignore[attr-defined]
        outcome = "read"
    except CaffeError as error:
        outcome = type(error).__name__
        if isinstance(error.__cause__, MemoryError) or "allocate" in str(error):
            report.failures.append(f"{name}: tried to take more than {ADDRESS_SPACE >> 30} GB: {error}")
    except BaseException:
        outcome = "failed"
        report.failures.append(f"{name}: {traceback.format_exc(limit=-4)}")
    seconds, taken = time.process_time() - start, _peak() - before
    if seconds > MAX_SECONDS * target.slowness:  # type: ignore[attr-defined]
        report.failures.append(f"{name}: took {seconds:.1f} s of processor time")
    if taken > allowed:
        report.failures.append(f"{name}: took {taken >> 20} MB, {allowed >> 20} MB are allowed")
    report.outcomes[outcome] += 1
    report.slowest, report.most_bytes = max(report.slowest, seconds), max(report.most_bytes, taken)


def _status(key: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) * 1024


def _reset_peak() -> int:
    """Forget the largest memory use so far; returns the present one."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")


def worker(arguments: Sequence[str]) -> None:
    """Entry of the process: runs the jobs in argv, prints what `work` yields as lines of JSON."""
    progress_path, folder, *jobs = arguments
    warnings.simplefilter("ignore")
    with open(progress_path, "r+b") as file:
        progress = mmap.mmap(file.fileno(), _PROGRESS.size)
    import fuzzing.targets  # noqa: F401  (imports everything before memory is limited)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _status("VmSize:") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for job in jobs:
        for following, report in work(Job(*json.loads(job)), progress, Path(folder)):
            print(json.dumps([following, vars(report)]), flush=True)


# -- the process that watches --------------------------------------------------------------------------------


def run(jobs: Sequence[Job]) -> Iterator[tuple[Job, Report]]:
    """Run jobs one after the other, yielding parts of their reports.

    A worker that dies is reported and replaced by one that goes on behind the case.
    """
    left = list(jobs)
    with tempfile.TemporaryDirectory() as folder:
        while left:
            reports, death = _run_worker(left, Path(folder))
            for following, report in reports:
                yield left[0], report
                left[0] = replace(left[0], first=following)
                if left[0].first == left[0].last:
                    del left[0]
            if death is not None:
                job, (case, reason) = left[0], death
                # The worker took what it had not reported with it: cases without failures.
                outcomes = collections.Counter({"before a crash": case - job.first, "failed": 1})
                yield job, Report(outcomes, [f"{job.name(case)}: {reason}"])
                left[0] = replace(job, first=case + 1)
                if case + 1 == job.last:
                    del left[0]


def _run_worker(jobs: Sequence[Job], folder: Path) -> tuple[list[tuple[int, Report]], tuple[int, str] | None]:
    progress_path, errors_path = folder / "progress", folder / "errors"
    progress_path.write_bytes(_PROGRESS.pack(jobs[0].first, _BETWEEN_CASES))
    command = [sys.executable, "-X", "faulthandler", __file__, "--worker", str(progress_path), str(folder)]
    command += [json.dumps([job.target, job.first, job.last, job.sample]) for job in jobs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output_path = folder / "output"
    with open(errors_path, "wb") as errors, open(output_path, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=folder, env=environment)
        hung = _watch(process, progress_path)
    lines = [json.loads(line) for line in output_path.read_text().splitlines() if line.startswith("[")]
    reports = [(n, Report(**{**line, "outcomes": collections.Counter(line["outcomes"])})) for n, line in lines]
    if process.returncode == 0:
        return reports, None
    case, _ = _PROGRESS.unpack(progress_path.read_bytes())
    code = process.returncode
    ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
    reason = f"no end after {HANG:g} s of processor time or {SLEEP:g} s" if hung else f"the process ended with {ending}"
    return reports, (case, f"{reason}\n{errors_path.read_text(errors='replace')[-3000:]}")


def _watch(process: subprocess.Popen[bytes], progress_path: Path) -> bool:
    """Wait for the end; a worker that stays with one case for too long is killed. Returns whether it was."""
    at, since = -1, time.monotonic()
    while True:
        try:
            process.wait(0.2)
            return False
        except subprocess.TimeoutExpired:
            case, began = _PROGRESS.unpack(progress_path.read_bytes())
            if case != at:
                at, since = case, time.monotonic()
            if _processor_time(process.pid) - began > HANG or time.monotonic() - since > SLEEP:
                process.kill()
                process.wait()
                return True


def _processor_time(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2:])
        return 0
    from fuzzing.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all without one")
    parser.add_argument("--cases", type=int, default=1000, help="mutations of each target (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--cut", action="store_true", help="cut the samples of each target at every byte as well")
    parser.add_argument("--show", nargs=2, metavar=("TARGET", "SEED"), help="write the file of a case to the output")
    arguments = parser.parse_args()
    if arguments.show:
        name, seed = arguments.show
        sys.stdout.buffer.write(Job(name, 0, 0).contents(TARGETS[name].samples(), int(seed)))
        return 0
    names = arguments.targets or list(TARGETS)
    jobs = [job for name in names for job in cut_jobs(name)] if arguments.cut else []
    jobs += [job for name in names for job in mutation_jobs(name, arguments.first, arguments.cases)]
    total = Report()
    for name in names:
        own = Report()
        for _, report in run([job for job in jobs if job.target == name]):
            own.merge(report)
        print("\n".join([f"{name}: {own}", *(f"  {failure}" for failure in own.failures)]), flush=True)
        total.merge(own)
    print(f"total: {total}")
    return int(bool(total.failures))


if __name__ == "__main__":
    sys.exit(main())
