"""What the tests share."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psycopg
import pytest

from metalab_store import FileStore, FileStoreConfig

CHECKOUT = Path(os.environ.get("METALAB_CHECKOUT", Path(__file__).parents[3]))
TARGET = Path(os.environ.get("METALAB_TARGET", CHECKOUT / "target"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory for a store; it does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[FileStore]:
    """A store of the experiment `exp:1`."""
    with FileStoreConfig(root=str(root)).scoped("exp:1").connect() as store:
        yield store


@pytest.fixture(scope="session")
def uri() -> str:
    """The URI of a database to make schemas in."""
    given = os.environ.get("METALAB_TEST_POSTGRES")
    if not given:
        pytest.fail(
            "METALAB_TEST_POSTGRES is not set: it has to hold the URI of a database for the tests", pytrace=False
        )
    return given


@pytest.fixture
def schema(uri: str) -> Iterator[str]:
    """A schema of the test's own."""
    name = f"python_{secrets.token_hex(6)}"
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[call-overload]
        yield name
        connection.execute(f"DROP SCHEMA {name} CASCADE")  # type: ignore[call-overload]


class Worker:
    """A process that a test started. It is killed if the test ends before it does."""

    def __init__(self, *command: str | Path) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin: IO[str] = self._process.stdin
        self._stdout: IO[str] = self._process.stdout

    @classmethod
    def python(cls, mode: str, root: Path, *arguments: str) -> Worker:
        """Starts a worker of this host."""
        return cls(sys.executable, Path(__file__).with_name("worker.py"), mode, root, *arguments)

    @classmethod
    def rust(cls, mode: str, root: Path, *arguments: str) -> Worker:
        """Starts a worker of the Rust host."""
        program = TARGET / "release" / "store-worker"
        assert program.exists(), f"{program} is missing: `cargo xtask test` builds it"
        return cls(program, mode, root, *arguments)

    @classmethod
    def node(cls, mode: str, root: Path, *arguments: str) -> Worker:
        """Starts a worker of the Node host, if that can be tested here."""
        package = CHECKOUT / "host" / "node"
        node = shutil.which("node")
        if node is None or not (package / "dist").exists() or not (package / "node_modules").exists():
            missing = "the Node host is not built: `cargo xtask test` does it, where there is Node"
            if os.environ.get("CI") == "true":
                pytest.fail(missing)
            pytest.skip(missing)
        return cls(node, package / "test" / "worker.mjs", mode, root, *arguments)

    @classmethod
    def of(cls, host: str, mode: str, root: Path, *arguments: str) -> Worker:
        """Starts a worker of a host by its name."""
        start = {"python": cls.python, "rust": cls.rust, "node": cls.node}[host]
        return start(mode, root, *arguments)

    def line(self) -> str | None:
        """Waits for the next line; None is the end."""
        return self._stdout.readline().rstrip("\n") or None

    def kill(self) -> int:
        """Kills it, without a chance to do anything more, and returns how many lines more it had written."""
        self._process.kill()
        return self._rest()

    def end(self) -> int:
        """Tells it to end, waits until it does, and returns how many lines more it had written."""
        self._stdin.close()
        lines = self._rest()
        assert self._process.returncode == 0
        return lines

    def _rest(self) -> int:
        lines = sum(1 for _ in self._stdout)
        self._process.wait()
        self._stdout.close()
        if not self._stdin.closed:
            self._stdin.close()
        return lines

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
