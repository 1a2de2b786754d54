"""The script of calls that every host makes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from conformance import transcript
from conftest import CHECKOUT

DIRECTORY = CHECKOUT / "tests/conformance"


def pairs(tmp_path: Path, index: dict[str, Any] | None) -> Iterator[tuple[dict[str, Any], Any, Any]]:
    """Makes the calls, and returns each with what it gave and what all hosts give."""
    root = tmp_path / "root"
    root.mkdir()
    found = transcript(DIRECTORY / "script.json", root, index)
    expected = [json.loads(line) for line in (DIRECTORY / "expected.jsonl").read_text("utf-8").splitlines()]
    operations = json.loads((DIRECTORY / "script.json").read_text("utf-8"))["operations"]
    return zip([*operations, {"call": "the files"}], found, expected, strict=True)


def test_this_host_gives_what_all_hosts_give(tmp_path: Path) -> None:
    for operation, found, expected in pairs(tmp_path, None):
        assert found == expected, operation


def test_this_host_gives_the_same_with_postgresql_as_index(uri: str, schema: str, tmp_path: Path) -> None:
    for operation, found, expected in pairs(tmp_path, {"connection_string": uri, "schema": schema}):
        assert found == expected, operation
    root = str((tmp_path / "root").resolve())
    expected_rows = (DIRECTORY / "tables.jsonl").read_text("utf-8").splitlines()
    for row, expected_row in zip(tables(uri, schema), expected_rows, strict=True):
        assert row.replace(root, "<root>") == expected_row


def tables(uri: str, schema: str) -> list[str]:
    """Returns the rows of all tables, as every host's test asks for them."""
    sql = re.sub(r"\{(\w+)\}", rf'"{schema}".\1', (DIRECTORY / "tables.sql").read_text("utf-8"))
    with psycopg.connect(uri) as connection:
        return [text for (text,) in connection.execute(sql.encode())]
