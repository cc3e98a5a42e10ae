"""What a training run leaves to look at: values line by line, a curve drawn as it goes, TensorBoard's files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from caffe_bridge.errors import CaffeError
from caffe_bridge.plots import plot_training

REFRESH = 30.0  # seconds between two pictures


class TrainingRecord:
    """A trainer's recorder: `NAME.jsonl`, one object per displayed iteration, and `NAME.png`, drawn from it.

        record = TrainingRecord("output/run/training", first=trainer.iter)
        trainer.recorders.append(record)
        trainer.solve()
        record.close()

    Args:
        stem: path of the files without their endings; the folder exists.
        first: the iteration the run begins with. What an earlier run recorded of the iterations before is kept.
        tensorboard: a folder for TensorBoard's event files, or None.

    Raises:
        CaffeError: TensorBoard is asked for and not installed.
    """

    def __init__(self, stem: str | Path, first: int = 0, tensorboard: str | Path | None = None):
        self.values, self.picture = Path(f"{stem}.jsonl"), Path(f"{stem}.png")
        self._records = [record for record in _read(self.values) if record["iter"] < first]
        self.values.write_text("".join(map(_line, self._records)), encoding="utf-8")
        self._drawn = time.monotonic()
        self._writer = None if tensorboard is None else _event_writer(tensorboard, first)

    def __call__(self, iteration: int, values: dict[str, float]) -> None:
        """Record the values of an iteration."""
        record = {"iter": iteration, **values}
        self._records.append(record)
        with self.values.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)
        if time.monotonic() - self._drawn > REFRESH:
            self.draw()

    def draw(self) -> None:
        """Bring the picture up to date."""
        if self._records:
            plot_training(self.picture, self._records)
        self._drawn = time.monotonic()

    def close(self) -> None:
        """Draw the last picture and finish the files."""
        self.draw()
        if self._writer is not None:
            self._writer.close()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    """The records in a file; lines that a killed run left half written are dropped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("iter"), int):
            records.append(record)
    return records


def _event_writer(folder: str | Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise CaffeError("event files need the package tensorboard: pip install 'caffe-bridge[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=first)
