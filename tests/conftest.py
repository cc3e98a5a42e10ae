"""Fixtures and rules every test shares."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge import config, randomness, solver_shares

REFERENCE = Path(__file__).parent / "reference"


def pytest_configure(config: pytest.Config) -> None:
    shared = hasattr(config, "workerinput")  # one of several processes that run tests side by side
    torch.set_num_threads(1 if shared else min(2, torch.get_num_threads()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    randomness.seed(0)


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """Log handlers and levels that programs set, in a test or in what is made once for several, stay out of others."""
    logger = logging.getLogger("caffe_bridge")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    yield
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def mnc_settings() -> Iterator[None]:
    """Every test starts from MNC's settings, and what it changes in `cfg` stays out of others."""
    config.use("mnc")
    yield
    config.use("mnc")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Runs here and runs in processes of their own repeat each other bit for bit only with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with what the original programs computed: layers/, forks/, mnc/, solvers/, files/, data/, ..."""
    return REFERENCE


@pytest.fixture
def one_of_three() -> Iterator[None]:
    """This process as the second of three solvers."""
    solver_shares.set_solver_count(3)
    solver_shares.set_solver_rank(1)
    yield
    solver_shares._chosen.clear()
