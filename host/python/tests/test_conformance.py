"""The script of calls that every host makes."""

from __future__ import annotations

import json
from pathlib import Path

from conformance import transcript
from conftest import CHECKOUT


def test_this_host_gives_what_all_hosts_give(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    directory = CHECKOUT / "tests/conformance"
    found = transcript(directory / "script.json", root)
    expected = [json.loads(line) for line in (directory / "expected.jsonl").read_text("utf-8").splitlines()]
    operations = json.loads((directory / "script.json").read_text("utf-8"))["operations"]
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == other, operations[number] if number < len(operations) else "the files"
