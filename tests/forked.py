"""Tools in processes of their own, forked from one that has imported them: importing takes longer than the tests."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import sys
import threading
from multiprocessing.connection import Connection

import torch

from caffe_bridge.cli import run

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["caffe_bridge.tools.train_net", "caffe_bridge.tools.test_net", "matplotlib.pyplot", "torch._dynamo"]
)


class Forked:
    """A running tool. Iterating over `stdout` gives the lines it prints, on either stream."""

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str]):
        read, write = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(write, module, arguments, environment))
        self._process.start()
        write.close()
        self.stdout = os.fdopen(os.dup(read.fileno()))
        read.close()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it prints until it ends, or is killed for taking longer than `timeout` seconds."""
        alarm = threading.Timer(timeout, self.kill) if timeout else None
        if alarm:
            alarm.start()
        with self.stdout:
            output = self.stdout.read()
        self._process.join()
        if alarm:
            alarm.cancel()
        return output, None

    @property
    def returncode(self) -> int | None:
        """Its exit status; that of a killed one is negative."""
        return self._process.exitcode


def fork(module: str, arguments: list[str]) -> Forked:
    """A tool with these arguments."""
    return Forked(module, arguments, {})


def fork_two(module: str, arguments: list[str]) -> list[Forked]:
    """A tool twice, the two to work together as torchrun would have them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [Forked(module, arguments, {**group, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]


def _run(write: Connection, module: str, arguments: list[str], environment: dict[str, str]) -> None:
    for stream in (1, 2):
        os.dup2(write.fileno(), stream)
    write.close()
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(run(importlib.import_module(f"caffe_bridge.tools.{module}").main, arguments))
