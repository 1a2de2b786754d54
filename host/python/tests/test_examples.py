"""The examples and the readme do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import CHECKOUT, TARGET
from wasmtime import Engine
from wasmtime import component as c

from metalab_store import FileStoreConfig, RunRecord

#: The component for runtimes that have WASI alone.
ALONE = TARGET / "component/metalab_store_wasi.wasm"


def run(*arguments: str | Path, cwd: Path) -> str:
    """Runs a program of Python, and returns what it printed."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_the_sweep_finds_its_best_runs_again(tmp_path: Path) -> None:
    program = CHECKOUT / "examples/python/sweep.py"
    said = run(program, "store", cwd=tmp_path)
    assert said.startswith("6 of 9 runs have a loss below 1; the best are\n")
    assert said.count("  rate 0.5 ") == 3
    assert "the model of" in said and "'slope': " in said
    assert run(program, "store", cwd=tmp_path) == said
    assert len(list((tmp_path / "store/line_fit_1.0/runs").iterdir())) == 9


def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    for readme in (CHECKOUT / "host/python/README.md", CHECKOUT / "README.md"):
        code = readme.read_text("utf-8").split("```python\n")[1].split("```")[0]
        (tmp_path / "code.py").write_text(code, "utf-8")
        assert "0.25" in run("code.py", cwd=tmp_path)


def test_a_runtime_that_knows_nothing_of_the_store_lists_it_with_wasi_alone(tmp_path: Path) -> None:
    with FileStoreConfig(root=str(tmp_path)).scoped("exp:1").connect() as store:
        for number in range(3):
            store.put_run_record(RunRecord.success(run_id=f"run{number}", metrics={"loss": number / 8}))
    directory = tmp_path / "exp_1"
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    said = run(CHECKOUT / "examples/python/plain_runtime.py", ALONE, directory, "exp:1", cwd=tmp_path)
    assert sorted(said.splitlines()) == [f"run{number} success {{'loss': {number / 8}}}" for number in range(3)]
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_the_component_for_other_runtimes_imports_wasi_alone() -> None:
    engine = Engine()
    ty = c.Component.from_file(engine, str(ALONE)).type
    foreign = [name for name in ty.imports(engine) if not name.startswith("wasi:")]
    assert foreign == []
    assert "metalab:store/store@0.1.0" in ty.exports(engine)


def test_the_component_for_other_runtimes_writes_nothing_and_says_why(tmp_path: Path) -> None:
    FileStoreConfig(root=str(tmp_path)).scoped("exp:1").connect().close()
    before = sorted(tmp_path.rglob("*"))
    program = (CHECKOUT / "examples/python/plain_runtime.py").read_text("utf-8")
    put = 'call("[method]store.put-log", opened, "run", "log", "text")'
    changed = program.replace('"read-only"', '"read-write"').replace("    runs = call", f"    {put}\n    runs = call")
    changed = changed.replace('"store", False)', '"store", True)')
    assert changed.count(put) == 1
    done = subprocess.run(
        [sys.executable, "-c", changed, ALONE, tmp_path / "exp_1", "exp:1"], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("read-only: "), done.stderr
    assert sorted(tmp_path.rglob("*")) == before
