"""The plugin in Python: built with componentize-py, and run by this host and by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, TARGET

from metalab_store import FileStore, FileStoreConfig, PluginLimits, RunRecord, derive

#: An interpreter of Python, on a machine that may be busy.
LIMITS = PluginLimits(time=300.0)


@pytest.fixture(scope="module")
def slope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the plugin as its first lines say."""
    made = tmp_path_factory.mktemp("plugin") / "slope.wasm"
    program = Path(sys.executable).with_name("componentize-py")
    source = CHECKOUT / "examples" / "plugin-python"
    subprocess.run(
        [program, "-d", CHECKOUT / "wit", "-w", "plugin", "componentize", "--stub-wasi", "-p", source, "slope", "-o", made],
        check=True,
        capture_output=True,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    return made


def test_a_plugin_in_python_derives_the_same_in_this_host_and_by_the_command(
    store: FileStore, root: Path, slope: Path
) -> None:
    for number in range(3):
        store.put_run_record(RunRecord.success(run_id=f"run{number}"))
    for number in (1, 2):
        lines = "".join(f"step {step} loss: {8 - step * number / 2}\n" for step in range(5))
        store.put_log(f"run{number}", "train", lines)
    expected = {
        "run1": {"loss_last": 6.0, "loss_lines": 5, "loss_slope": -0.5},
        "run2": {"loss_last": 4.0, "loss_lines": 5, "loss_slope": -1.0},
    }
    config = FileStoreConfig(root=str(root)).scoped("exp:1")
    report = derive(config, slope, limits=LIMITS, dry_run=True)
    assert report.derived == 2 and not store.derived_exists("run1")

    report = derive(config, slope, "run_id = 'run1' or run_id = 'run0'", limits=LIMITS)
    assert [(failure.run_id, failure.code) for failure in report.failures] == [("run0", "refused")]
    assert "a slope needs two" in report.failures[0].message
    command = [TARGET / "release/metalab-store", "-s", root, "-e", "exp:1", "--json", "derive", slope, "--time", "300"]
    told = subprocess.run([*command, "--where", "run_id = 'run2'"], check=True, capture_output=True, text=True)
    assert json.loads(told.stdout)["derived"] == 1
    assert {run: store.get_derived(run) for run in expected} == expected
