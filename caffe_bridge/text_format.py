"""Protobuf's text format, in which prototxt files are written.

The whole format but extensions and Any: quotes of both kinds with every escape, adjacent strings, comments, `{}` and
`<>`, lists, separators, numbers in any base. The errors name file, line and column and what was expected, and the
lines of top-level entries are kept, so that later errors can point at a layer.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from caffe_bridge.errors import PrototxtError

Lines = dict[str, list[int | None]]
"""Line (from 1) of every entry of each top-level field, in order: `lines["layer"][2]` is the third layer's.
None stands for entries that are in no file."""

MAX_DEPTH = 100
"""How deep messages may nest."""

_TOKEN = re.compile(
    r"""
    [ \t\r\n\f\v]+ | \#[^\n]* |
    (?P<name>[A-Za-z_]\w*) |
    (?P<number>\.?[0-9](?:[eE][-+]|[\w.])*) |
    (?P<string>"(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*') |
    (?P<symbol>[{}<>\[\]:;,-]) |
    (?P<bad>.)
    """,
    re.VERBOSE | re.ASCII,
)
_FLOAT = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?")
_INTEGER = re.compile(r"(?P<hex>0[xX][0-9a-fA-F]+)|(?P<octal>0[0-7]+)|0|[1-9][0-9]*")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"?])|([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))"
)
_SIMPLE_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(text: str | bytes, message: Any, path: str | None = None) -> Lines:
    """Read text format into `message`, replacing what it holds. Returns the lines of its top-level entries.

    Bytes are taken as UTF-8, with or without a byte order mark; other encodings are tolerated inside comments.
    As in Caffe, a field that is not repeated may be set only once.

    Raises PrototxtError, with `path` in it, for anything protobuf's own parser refuses.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    message.Clear()
    parser = _Parser(text.removeprefix("\ufeff"), path)
    parser.message(message, _layout(message.DESCRIPTOR), "", 0, parser.lines)
    return parser.lines


def format(message: Any) -> str:
    """The message in text format; floats in their shortest form that reads back the same."""
    from google.protobuf import text_format

    return text_format.MessageToString(message, as_utf8=True)


class _Field(NamedTuple):
    name: str
    kind: str  # message, float, int, bool, enum, string or bytes
    repeated: bool
    low: int
    high: int
    enum: dict[str, int]
    descriptor: Any  # of the message type


class _Layout(NamedTuple):
    name: str
    fields: dict[str, _Field]
    required: tuple[str, ...]


@functools.cache
def _layout(descriptor: Any) -> _Layout:
    fields = {field.name: _field(field) for field in descriptor.fields}
    required = tuple(field.name for field in descriptor.fields if _has_label(field, "required"))
    return _Layout(descriptor.name, fields, required)


def _has_label(field: Any, label: str) -> bool:
    """Newer protobuf has is_repeated and is_required, older only `label`."""
    known = getattr(field, f"is_{label}", None)
    return field.label == getattr(field, f"LABEL_{label.upper()}") if known is None else known


def _field(field: Any) -> _Field:
    bits = 64 if field.type in (field.TYPE_INT64, field.TYPE_UINT64) else 32
    unsigned = field.type in (field.TYPE_UINT32, field.TYPE_UINT64)
    kinds = {
        field.TYPE_MESSAGE: "message",
        field.TYPE_FLOAT: "float",
        field.TYPE_DOUBLE: "float",
        field.TYPE_BOOL: "bool",
        field.TYPE_ENUM: "enum",
        field.TYPE_STRING: "string",
        field.TYPE_BYTES: "bytes",
    }
    return _Field(
        name=field.name,
        kind=kinds.get(field.type, "int"),
        repeated=_has_label(field, "repeated"),
        low=0 if unsigned else -(1 << bits - 1),
        high=(1 << bits if unsigned else 1 << bits - 1) - 1,
        enum={value.name: value.number for value in field.enum_type.values} if field.enum_type else {},
        descriptor=field.message_type,
    )


def near(name: str, names: Iterable[str]) -> str:
    """A hint such as ` (did you mean 'bottom'?)`, or nothing if no name is like `name`."""
    matches = difflib.get_close_matches(name[:100], list(names), n=1)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


class _Parser:
    """A recursive descent over the tokens (kind, text, offset); the last one has kind "end"."""

    def __init__(self, text: str, path: str | None):
        self.text, self.path = text, path
        self.lines: Lines = {}
        self.tokens = [(m.lastgroup, m.group(), m.start()) for m in _TOKEN.finditer(text) if m.lastgroup]
        self.tokens.append(("end", "", len(text)))
        self.at = self.depth = 0
        self.line, self.line_offset = 1, 0

    def error(self, message: str, offset: int | None = None) -> PrototxtError:
        """The error at an offset, by default that of the current token."""
        if offset is None:
            offset = self.tokens[self.at][2]
        line = self.text.count("\n", 0, offset) + 1
        return PrototxtError(message, self.path, line, offset - self.text.rfind("\n", 0, offset))

    def expected(self, what: str) -> PrototxtError:
        kind, text, offset = self.tokens[self.at]
        if kind == "end":
            return self.error(f"expected {what} but the text ends")
        if kind == "bad":
            if text in "\"'":
                return self.error("this string is not closed on its line", offset)
            return self.error("this byte is not UTF-8" if _SURROGATE.match(text) else f"unexpected character {text!r}")
        return self.error(f"expected {what}, got {text[:60]}")

    def line_of(self, offset: int) -> int:
        """The line of an offset; offsets must come in rising order."""
        self.line += self.text.count("\n", self.line_offset, offset)
        self.line_offset = offset
        return self.line

    def take(self, symbol: str) -> bool:
        if self.tokens[self.at][1] == symbol:
            self.at += 1
            return True
        return False

    def message(self, message: Any, layout: _Layout, close: str, opened: int, lines: Lines | None = None) -> None:
        """Read fields up to the closing bracket (the end of the text if `close` is empty)."""
        tokens, fields = self.tokens, layout.fields
        while True:
            kind, name, offset = tokens[self.at]
            if kind != "name":
                if name == close and kind in ("symbol", "end"):
                    break
                if kind == "end":
                    raise self.error(f"the bracket opened here is not closed before the end of {layout.name}", opened)
                raise self.expected(f"the name of a field of {layout.name}")
            field = fields.get(name)
            if field is None:
                raise self.error(f"{layout.name} has no field '{name[:100]}'{near(name, fields)}")
            if not field.repeated and message.HasField(name):
                raise self.error(f"non-repeated field '{name}' is set more than once")
            self.at += 1
            colon = self.take(":")
            if not colon and field.kind != "message":
                raise self.expected(f"':' after {name}")
            if field.repeated and self.take("["):
                self.list(message, field, lines)
            else:
                self.entry(message, field, offset, lines)
            if tokens[self.at][1] in (",", ";"):
                self.at += 1
        for name in layout.required:
            if not message.HasField(name):
                raise self.error(f"{layout.name} lacks its required field '{name}'", opened)
        self.at += bool(close)

    def list(self, message: Any, field: _Field, lines: Lines | None) -> None:
        if self.take("]"):
            return
        self.entry(message, field, self.tokens[self.at][2], lines)
        while self.take(","):
            self.entry(message, field, self.tokens[self.at][2], lines)
        if not self.take("]"):
            raise self.expected("',' or ']'")

    def entry(self, message: Any, field: _Field, offset: int, lines: Lines | None) -> None:
        """One value of a field, for whose line `offset` stands."""
        if lines is not None:
            lines.setdefault(field.name, []).append(self.line_of(offset))
        if field.kind == "message":
            self.submessage(message, field)
        elif field.repeated:
            getattr(message, field.name).append(self.scalar(field))
        else:
            setattr(message, field.name, self.scalar(field))

    def submessage(self, message: Any, field: _Field) -> None:
        opened = self.tokens[self.at][2]
        if self.take("{"):
            close = "}"
        elif self.take("<"):
            close = ">"
        else:
            raise self.expected(f"'{{' after {field.name}")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"messages nest more than {MAX_DEPTH} deep", opened)
        if field.repeated:
            child = getattr(message, field.name).add()
        else:
            child = getattr(message, field.name)
            child.SetInParent()
        self.message(child, _layout(field.descriptor), close, opened)
        self.depth -= 1

    def scalar(self, field: _Field) -> Any:
        if field.kind == "int":
            return self.integer(field.name, field.low, field.high)
        if field.kind == "float":
            return self.float(field.name)
        if field.kind == "enum":
            return self.enum(field)
        if field.kind == "bool":
            return self.bool(field.name)
        data = self.string(field.name)
        if field.kind == "bytes":
            return data
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{field.name} is not UTF-8", self.tokens[self.at - 1][2]) from None

    def integer(self, name: str, low: int, high: int) -> int:
        start = self.at
        negative = self.take("-")
        kind, text, _ = self.tokens[self.at]
        match = _INTEGER.fullmatch(text) if kind == "number" else None
        if match is None:
            raise self.expected(f"an integer for {name}")
        # 22 octal digits hold 64 bits; Python refuses to convert unbounded ones.
        base = 16 if match["hex"] else 8 if match["octal"] else 10
        value = int(text, base) if len(text) <= 64 else 1 << 64
        value = -value if negative else value
        if not low <= value <= high:
            offset = self.tokens[start][2]
            raise self.error(f"{name} must be between {low} and {high}, got {'-' * negative}{text[:60]}", offset)
        self.at += 1
        return value

    def float(self, name: str) -> float:
        negative = self.take("-")
        kind, text, _ = self.tokens[self.at]
        if kind == "number" and _FLOAT.fullmatch(text):
            value = float(text.rstrip("fF"))
        elif text.lower() in ("inf", "inff", "infinity", "infinityf") and kind == "name":
            value = math.inf
        elif text.lower() in ("nan", "nanf") and kind == "name":
            value = math.nan
        else:
            raise self.expected(f"a number for {name}")
        self.at += 1
        return -value if negative else value

    def bool(self, name: str) -> bool:
        kind, text, _ = self.tokens[self.at]
        if kind == "name" and text in _BOOLS:
            self.at += 1
            return _BOOLS[text]
        if kind == "number" and _INTEGER.fullmatch(text):
            return bool(self.integer(name, 0, 1))
        raise self.expected(f"true or false for {name}")

    def enum(self, field: _Field) -> int:
        kind, text, offset = self.tokens[self.at]
        if kind == "name":
            if text not in field.enum:
                hint = near(text, field.enum)
                raise self.error(f"{field.name} must be one of {', '.join(field.enum)}; got {text[:60]}{hint}")
            self.at += 1
            return field.enum[text]
        if kind == "string":
            raise self.error(f"{field.name} takes one of {', '.join(field.enum)}, without quotes")
        value = self.integer(field.name, -(1 << 31), (1 << 31) - 1)
        if value not in field.enum.values():
            known = ", ".join(f"{name} ({number})" for name, number in field.enum.items())
            raise self.error(f"{field.name} must be one of {known}; got {value}", offset)
        return value

    def string(self, name: str) -> bytes:
        if self.tokens[self.at][0] != "string":
            raise self.expected(f"a quoted string for {name}")
        parts = []
        while self.tokens[self.at][0] == "string":
            parts.append(self.unquoted())
            self.at += 1
        return b"".join(parts)

    def unquoted(self) -> bytes:
        _, text, offset = self.tokens[self.at]
        parts = []
        end = 1
        try:
            for match in _ESCAPE.finditer(text, 1, len(text) - 1):
                parts.append(text[end : match.start()].encode())
                parts.append(self.escape(match, offset))
                end = match.end()
            parts.append(text[end:-1].encode())
        except UnicodeEncodeError:
            raise self.error("this string is not UTF-8", offset) from None
        return b"".join(parts)

    def escape(self, match: re.Match[str], offset: int) -> bytes:
        simple, octal, hexadecimal, short, long, unknown = match.groups()
        if simple:
            return bytes([_SIMPLE_ESCAPES.get(simple, ord(simple))])
        if octal or hexadecimal:
            value = int(octal, 8) if octal else int(hexadecimal, 16)
            if value < 256:
                return bytes([value])
        elif not unknown:
            value = int(short or long, 16)
            if value < 0x110000 and not 0xD800 <= value < 0xE000:
                return chr(value).encode()
        raise self.error(f"bad escape {match.group()!r} in a string", offset + match.start())
