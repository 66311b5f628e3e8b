"""The stream gives what `json.loads` gives, wherever the file is cut into pieces, and refuses what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolo_lite.data.json_stream import JsonStream
from yolo_lite.utils.errors import UserError

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
documents = st.dictionaries(st.text(max_size=6), values, max_size=5)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream(tmp_path: Path, data: bytes, chunk_bytes: int) -> dict[str, Any]:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with JsonStream(path, chunk_bytes) as members:
        return {k: list(v) if isinstance(v, Iterator) else v for k, v in members.members()}


@QUICK
@given(documents, st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]), st.sampled_from(["utf-8", "utf-16"]))
def test_the_same_values(
    tmp_path: Path, document: dict[str, Any], chunk_bytes: int, ascii_only: bool, indent: int | None, encoding: str
) -> None:
    data = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode(encoding, "surrogatepass")
    assert repr(stream(tmp_path, data, chunk_bytes)) == repr(json.loads(data))  # by text: NaN is not NaN


@settings(QUICK, max_examples=400)
@given(documents, st.data())
def test_the_same_files_are_refused(tmp_path: Path, document: dict[str, Any], data: st.DataObject) -> None:
    text = bytearray(json.dumps(document).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(text)))
        text[i : i + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", *(bytes([c]) for c in b'{}[]",:0-.e \\u\xff')])
        )
    try:
        expected = json.loads(bytes(text))
    except ValueError:
        expected = None
    chunk_bytes = data.draw(st.integers(1, 40))
    if isinstance(expected, dict):
        assert repr(stream(tmp_path, bytes(text), chunk_bytes)) == repr(expected)
    else:
        with pytest.raises(UserError, match=r"file\.json is not"):
            stream(tmp_path, bytes(text), chunk_bytes)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": [1, 2}', r"Expecting ',' delimiter \(character 11\)"),
        ('{"a": [1, 2]', r"Expecting ',' delimiter \(character 12\)"),
        ('{"a": [{"b": tru}, 2]}', r"Expecting value \(character 13\)"),
        ('{"a": 1} 2', r"Extra data \(character 9\)"),
        ('{"a" 1}', r"Expecting ':' delimiter \(character 5\)"),
        ("{1: 2}", r"double quotes \(character 1\)"),
        ('{"a": [1, "' + "x" * 100, r"Unterminated string starting at \(character 10\)"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 5, 1000])
def test_errors_say_where(tmp_path: Path, text: str, what: str, chunk_bytes: int) -> None:
    with pytest.raises(UserError, match=what):
        stream(tmp_path, text.encode(), chunk_bytes)


def test_a_broken_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": [{"b": nonsense}, ' + "1, " * 100_000 + "1]}")
    with JsonStream(path, 1000) as members, pytest.raises(UserError, match="character 13"):
        for _, value in members.members():
            list(value)
    assert members.bytes_read <= 2000


def test_a_value_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolo_lite.data.json_stream.MAX_VALUE", 2**20)
    with pytest.raises(UserError, match="more than 1 MiB"):
        stream(tmp_path, b'{"a": ["' + b"x" * 2**23, 2**16)


def test_a_long_list_on_top_is_refused_after_its_first_entry(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[" + '{"score": 1}, ' * 10_000 + "{}]")
    with JsonStream(path, 1000) as members, pytest.raises(UserError, match="top level is a list"):
        list(members.members())
    assert members.bytes_read <= 2000
