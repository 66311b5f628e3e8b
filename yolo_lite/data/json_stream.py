"""Read a JSON file member by member and entry by entry, so that a file of gigabytes needs no memory of that size.

The values are decoded by the standard library's decoder and are those of `json.loads`. Faster streaming parsers differ
where data is bad: ijson (YAJL) refuses NaN, large integers and byte order marks, and puts `?` for broken Unicode.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from yolo_lite.utils.errors import UserError

CHUNK_BYTES = 2**22
# What the end of a text can leave of a number, a literal or an escape (`-Infinity`, two `\uXXXX`).
MARGIN = 16
# No annotation is as long. Beyond it the file is broken, and reading on would only fill the memory.
MAX_VALUE = 2**28
DECODER = json.JSONDecoder()
WHITESPACE = re.compile(r"[ \t\n\r]*")


class JsonStream:
    """A JSON file whose top level is an object.

    Args:
        path: the file.
        chunk_bytes: how much is read at a time.

    Raises:
        UserError: it is missing, unreadable or not JSON; from all methods.
    """

    def __init__(self, path: Path, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.path = path
        self.bytes_read = 0
        self._chunk_bytes = chunk_bytes
        self._text = ""
        self._pos = 0  # in the text
        self._dropped = 0  # characters of the file before the text
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (closed in __exit__)
            self.size = os.fstat(self._file.fileno()).st_size
            encoding = json.detect_encoding(self._file.read(4))
            self._file.seek(0)
        except FileNotFoundError:
            raise UserError(f"no annotation file {path}") from None
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        self._to_text = codecs.getincrementaldecoder(encoding)("surrogatepass")

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def members(self) -> Iterator[tuple[str, Any]]:
        """Key and value of each member of the top level; a list comes as an iterator over its entries."""
        self._check_top_level()
        self._pos += 1
        is_open = self._next() != "}"
        self._pos += not is_open
        while is_open:
            if self._next() != '"':
                self._fail("Expecting property name enclosed in double quotes")
            key = self._value()
            if self._next() != ":":
                self._fail("Expecting ':' delimiter")
            self._pos += 1
            if self._next() == "[":
                entries = self._entries()
                yield key, entries
                for _ in entries:  # what was not asked for
                    pass
            else:
                yield key, self._value()
            is_open = self._goes_on("}")
        if self._next():
            self._fail("Extra data")

    def _check_top_level(self) -> None:
        """Refuse anything but an object, a long list after its first entry."""
        first = self._next()
        if first == "{":
            return
        if first == "[":
            next(self._entries(), None)
            kind = "list"
        else:
            kind = type(self._value()).__name__
        raise UserError(f"{self.path} is not COCO: the top level is a {kind}, not an object")

    def _entries(self) -> Iterator[Any]:
        self._pos += 1
        is_open = self._next() != "]"
        self._pos += not is_open
        while is_open:
            yield self._value()
            is_open = self._goes_on("]")

    def _goes_on(self, close: str) -> bool:
        """Step over a comma, or over the end."""
        char = self._next()
        if char not in (",", close) or not char:
            self._fail("Expecting ',' delimiter")
        self._pos += 1
        return char == ","

    def _next(self) -> str:
        """The next character that is no white space, "" at the end of the file."""
        while True:
            found = WHITESPACE.match(self._text, self._pos)
            assert found is not None
            self._pos = found.end()
            if self._pos < len(self._text):
                return self._text[self._pos]
            if not self._fill():
                return ""

    def _value(self) -> Any:
        """Decode the next value, reading on until it is whole."""
        self._next()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._pos)
            except json.JSONDecodeError as error:
                is_cut_off = error.pos + MARGIN >= len(self._text) or error.msg.startswith("Unterminated string")
                if len(self._text) - self._pos > MAX_VALUE:
                    self._fail(f"a value of more than {MAX_VALUE >> 20} MiB")
                offset = error.pos - self._pos
                if not is_cut_off or not self._fill():
                    self._fail(error.msg, offset)
            except RecursionError:
                raise UserError(f"{self.path} is not a COCO annotation file: it is nested too deeply") from None
            else:
                length = end - self._pos
                if end + MARGIN <= len(self._text) or not self._fill():
                    self._pos += length
                    return value

    def _fill(self) -> bool:
        """Forget what was decoded and read on; False at the end of the file."""
        rest = self._text[self._pos :]
        try:  # at least as much as is there: a long value is decoded again a few times only
            data = self._file.read(max(self._chunk_bytes, len(rest)))
            self._text = rest + self._to_text.decode(data, final=not data)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None
        except UnicodeError as error:
            self._fail(str(error))
        self.bytes_read += len(data)
        self._dropped += self._pos
        self._pos = 0
        return bool(data)

    def _fail(self, what: str, offset: int = 0) -> NoReturn:
        position = self._dropped + self._pos + offset
        raise UserError(f"{self.path} is not valid JSON: {what} (character {position})")
