"""The exceptions caffe-bridge raises for bad input; all derive from CaffeError."""

from __future__ import annotations

from collections.abc import Sequence


class CaffeError(RuntimeError):
    """Base of every error caused by what the user brought: a file, a net, an array.

    It is a RuntimeError because that is what pycaffe raises. The command-line tools print it as one line and exit with
    status 2.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its type where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class PrototxtError(CaffeError):
    """A prototxt cannot be read. Names the file, and line and column (both from 1) where they are known."""

    def __init__(self, message: str, path: str | None = None, line: int | None = None, column: int | None = None):
        where = ":".join(str(part) for part in (path, line, column) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.path, self.line, self.column = path, line, column


class WeightsError(CaffeError):
    """A weights file cannot be read, or does not fit the net. Names the file, the layer and the shapes."""


class LayerError(CaffeError):
    """A layer cannot be set up or run on what it was given.

    Layers raise it with the bare message; the net adds name, type, file:line and bottom shapes through `located`.
    """

    def located(self, name: str, type_: str, where: str, bottom_shapes: Sequence[Sequence[int]]) -> LayerError:
        """The same error naming its layer; an error that already names one is returned unchanged."""
        if getattr(self, "layer", None) is not None:
            return self
        shapes = ", ".join("(" + ", ".join(map(str, shape)) + ")" for shape in bottom_shapes)
        prefix = f"{where}: " if where else ""
        error = LayerError(f"{prefix}layer '{name}' ({type_}), bottoms [{shapes}]: {self}")
        error.layer = name
        return error

    layer: str | None = None


class SolverError(CaffeError):
    """A solver definition or state cannot be used."""
