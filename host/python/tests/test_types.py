"""The package is typed throughout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_package_has_no_type_error(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "src"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "metalab_store"]
    checked = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert (source / "metalab_store/py.typed").exists()
