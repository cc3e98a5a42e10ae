"""Mutated and cut files of every kind: refused with an error of ours or read, quickly and in little memory.

Each target gets CASES mutations (200 unless the environment says otherwise), beginning with seed FIRST. The acceptance
run makes 100,000 in all and cuts every sample; see tests/fuzzing/driver.py.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from fuzzing import driver, mutations, targets

from caffe_bridge import CaffeError, native
from caffe_bridge.weights import native_index
from caffe_bridge.weights.files import map_file

CASES, FIRST = int(os.environ.get("CASES", "200")), int(os.environ.get("FIRST", "0"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through Linux's /proc")
def test_every_file_is_refused_or_read():
    names = list(targets.TARGETS)
    jobs = [job for name in names for job in driver.cut_jobs(name, most=1) if job.last < 4000]
    jobs += [job for name in names for job in driver.mutation_jobs(name, FIRST, CASES)]
    total = driver.Report()
    for _, report in driver.run(jobs):
        total.merge(report)
    assert not total.failures, "\n".join(total.failures[:20])
    assert sum(total.outcomes.values()) == sum(job.last - job.first for job in jobs)
    assert total.outcomes["read"] > len(names) and total.outcomes["WeightsError"] > CASES


@pytest.mark.parametrize("name", targets.TARGETS)
def test_samples_are_in_order(tmp_path, name):
    target = targets.TARGETS[name]
    for sample in target.samples():
        path = tmp_path / f"sample{target.suffix}"
        path.write_bytes(sample)
        target.read(path)


@pytest.mark.skipif(not native.status().loaded, reason="no native kernels")
def test_the_compiled_walk_answers_for_files_in_order(tmp_path):
    answered = 0
    for sample in targets.caffemodels():
        path = tmp_path / "a.caffemodel"
        path.write_bytes(sample)
        answered += native_index.index(map_file(path)) is not None
        targets.same_walks(path)
    assert answered == len(targets.caffemodels()) - 1, "all but the one with raw_data"


@pytest.mark.parametrize("mutation", [*mutations.BINARY, *mutations.TEXT], ids=lambda mutation: mutation.__name__)
def test_mutations_follow_the_seed(mutation):
    samples = [b'layer { name: "a" num_output: 12 }\n' * 5, bytes(range(200))]
    results = []
    for seed in (1, 1, 2, 3, 4):
        data = bytearray(samples[0])
        mutation(data, random.Random(seed), samples)
        results.append(bytes(data))
    assert results[0] == results[1] and len(set(results)) > 1


def test_misbehaviour_is_found_and_the_cases_behind_it_are_run(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import os, sys, time
if "--worker" in sys.argv:
    sys.path.insert(0, {str(Path(driver.__file__).parent.parent)!r})
    from dataclasses import replace
    from fuzzing import targets

    def read(path):
        size = path.stat().st_size
        if size == 1: raise KeyError(size)
        if size == 2:
            start = time.process_time()
            while time.process_time() < start + 1.1: pass
        if size == 3: bytearray(200 << 20).find(b"x")
        if size == 4: os.abort()
        while size == 5: pass

    targets.TARGETS["solver"] = replace(targets.TARGETS["solver"], read=read, samples=lambda: [b"sample"])
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(driver, "HANG", 2.0)
    total = driver.Report()
    for _, report in driver.run([driver.Job("solver", 0, 7, sample=0)]):
        total.merge(report)
    error, slow, large, crash, hang = total.failures
    assert error.startswith("solver sample 0 cut at 1: ") and "KeyError: 1" in error
    assert "cut at 2: took " in slow and "s of processor time" in slow
    assert "cut at 3: took " in large and "64 MB are allowed" in large
    assert "cut at 4: the process ended with signal SIGABRT" in crash
    assert "cut at 5: no end after 2 s of processor time" in hang
    assert total.outcomes == {"failed": 3, "read": 4, "before a crash": 0}


def test_errors_of_the_readers_are_ours(tmp_path):
    for name, target in targets.TARGETS.items():
        path = tmp_path / f"noise{target.suffix}"
        path.write_bytes(random.Random(0).randbytes(300))
        with pytest.raises(CaffeError, match="noise"):
            target.read(path)
        assert name
