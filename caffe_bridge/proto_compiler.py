"""Compile .proto text (proto2, one file, no imports) into a FileDescriptorProto.

protoc is not needed to install or run, and one .proto text serves every protobuf release. Covered is what message
definitions use: messages, nested messages, enums, `required`/`optional`/`repeated` fields with `default`, `packed`
and `deprecated` options, and `reserved`/`extensions` statements, which are skipped.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_LABELS = {"optional": _Field.LABEL_OPTIONAL, "required": _Field.LABEL_REQUIRED, "repeated": _Field.LABEL_REPEATED}
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("double", "float", "int32", "int64", "uint32", "uint64", "bool", "string", "bytes")
}
_TOKEN = re.compile(
    r"""\s+|//[^\n]*|/\*.*?\*/|([A-Za-z_][\w.]*|[-+]?[\d.][\w.]*(?:[-+]\d+)?|"[^"]*"|'[^']*'|.)""", re.DOTALL
)


def compile_proto(text: str, name: str) -> descriptor_pb2.FileDescriptorProto:
    """The descriptor of one self-contained proto2 file called `name`.

    Raises ValueError for a syntax error or a type that is not defined in the text.
    """
    return _Compiler(text, name).file


class _Compiler:
    def __init__(self, text: str, name: str):
        self.tokens = [token for token in _TOKEN.findall(text) if token]
        self.at = 0
        self.kinds: dict[str, int] = {}
        self.unresolved: list[tuple[Any, str]] = []
        self.file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto2")
        while self.at < len(self.tokens):
            self._statement()
        for field, scope in self.unresolved:
            self._resolve(field, scope)

    def _next(self) -> str:
        if self.at == len(self.tokens):
            raise ValueError(f"{self.file.name}: unexpected end of file")
        self.at += 1
        return self.tokens[self.at - 1]

    def _expect(self, *wanted: str) -> None:
        for token in wanted:
            got = self._next()
            if got != token:
                before = " ".join(self.tokens[max(0, self.at - 6) : self.at])
                raise ValueError(f"{self.file.name}: expected '{token}' but got '{got}' at the end of '{before}'")

    def _skip_statement(self) -> None:
        while self._next() != ";":
            pass

    def _statement(self) -> None:
        keyword = self._next()
        if keyword == "package":
            self.file.package = self._next()
            self._expect(";")
        elif keyword == "message":
            self._message(self.file.message_type.add(), f".{self.file.package}")
        elif keyword == "enum":
            self._enum(self.file.enum_type.add(), f".{self.file.package}")
        elif keyword in ("syntax", "option"):
            self._skip_statement()
        elif keyword != ";":
            raise ValueError(f"{self.file.name}: unexpected '{keyword}'")

    def _message(self, message: descriptor_pb2.DescriptorProto, scope: str) -> None:
        message.name = self._next()
        scope = f"{scope}.{message.name}"
        self.kinds[scope] = _Field.TYPE_MESSAGE
        self._expect("{")
        while (keyword := self._next()) != "}":
            if keyword in _LABELS:
                self._field(message.field.add(label=_LABELS[keyword]), scope)
            elif keyword == "message":
                self._message(message.nested_type.add(), scope)
            elif keyword == "enum":
                self._enum(message.enum_type.add(), scope)
            elif keyword in ("reserved", "extensions", "option"):
                self._skip_statement()
            elif keyword != ";":
                raise ValueError(f"{self.file.name}: unexpected '{keyword}' in message {message.name}")

    def _enum(self, enum: descriptor_pb2.EnumDescriptorProto, scope: str) -> None:
        enum.name = self._next()
        self.kinds[f"{scope}.{enum.name}"] = _Field.TYPE_ENUM
        self._expect("{")
        while (value := self._next()) != "}":
            if value != ";":
                self._expect("=")
                enum.value.add(name=value, number=int(self._next(), 0))
                self._expect(";")

    def _field(self, field: descriptor_pb2.FieldDescriptorProto, scope: str) -> None:
        type_name = self._next()
        field.name = self._next()
        self._expect("=")
        field.number = int(self._next(), 0)
        if type_name in _SCALARS:
            field.type = _SCALARS[type_name]
        else:
            field.type_name = type_name
            self.unresolved.append((field, scope))
        separator = self._next()
        while separator in ("[", ","):
            option = self._next()
            self._expect("=")
            value = self._next()
            if option == "default":
                field.default_value = value[1:-1] if value[0] in "\"'" else value
            elif option in ("packed", "deprecated"):
                setattr(field.options, option, value == "true")
            else:
                raise ValueError(f"{self.file.name}: unknown option '{option}' of field {field.name}")
            separator = self._next()
            if separator == "]":
                separator = self._next()
        if separator != ";":
            raise ValueError(f"{self.file.name}: expected ';' after field {field.name}, got '{separator}'")

    def _resolve(self, field: descriptor_pb2.FieldDescriptorProto, scope: str) -> None:
        """Find a named type in the innermost scope that has it, as C++ does."""
        name = field.type_name
        while f"{scope}.{name}" not in self.kinds:
            if not scope:
                raise ValueError(f"{self.file.name}: field {field.name} has unknown type {name}")
            scope = scope.rpartition(".")[0]
        field.type_name = f"{scope}.{name}"
        field.type = self.kinds[field.type_name]
