"""Encrypted connections, to a server with a certificate of an authority that was made for the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TARGET, Worker

from metalab_store import DatabaseError, PostgresStoreConfig, RunRecord
from metalab_store._postgres import Binding, Failure, PostgresContext, Server

IS_ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """Where the server is, and the certificates of its authority and of another one."""
    program = TARGET / "release" / "encrypted-server"
    assert program.exists(), f"{program} is missing: `cargo xtask test` builds it"
    with Worker(program) as worker:
        yield json.loads(worker.line() or "")
        worker.end()


def is_encrypted(server: dict[str, Any], mode: str, host: str, ca: str | None) -> tuple[bool | None, str]:
    """Says whether connections are encrypted; None: there is none, and why."""
    connection = {
        "hosts": [(host, server["port"])],
        "database": "metalab",
        "user": "metalab",
        "password": None,
        "tls-mode": mode,
        "ca-file": ca,
        "parameters": [],
        "connect-timeout-ms": 10_000,
        "pool-min-size": 1,
        "pool-max-size": 1,
    }
    binding = Binding(Server.resolved(connection))
    context = PostgresContext({"index": binding})
    try:
        (row,) = context.query("index", IS_ENCRYPTED, [], 1).rows
        return row[0][1], ""
    except Failure as failure:
        assert failure.kind == "unreachable"
        return None, failure.message
    finally:
        context.close()
        binding.close()


@pytest.mark.parametrize(
    ("mode", "host", "ca", "expected"),
    [
        # The certificate is for localhost, and not for the address of the same host.
        ("disable", "localhost", None, False),
        ("prefer", "127.0.0.1", None, True),
        ("require", "127.0.0.1", None, True),
        ("require", "127.0.0.1", "ours", True),
        ("require", "127.0.0.1", "other", None),
        ("verify-ca", "127.0.0.1", "ours", True),
        ("verify-ca", "localhost", "other", None),
        ("verify-full", "localhost", "ours", True),
        ("verify-full", "127.0.0.1", "ours", None),
        ("verify-full", "localhost", "other", None),
    ],
)
def test_each_mode_trusts_what_libpq_trusts(
    server: dict[str, Any], mode: str, host: str, ca: str | None, expected: bool | None
) -> None:
    encrypted, message = is_encrypted(server, mode, host, None if ca is None else server[ca])
    assert encrypted is expected, message
    assert (message == "") == (expected is not None)


def test_a_store_uses_an_index_through_an_encrypted_connection_or_says_why_it_cannot(
    server: dict[str, Any], root: Path
) -> None:
    def config(ca: str) -> PostgresStoreConfig:
        uri = f"postgresql://metalab@localhost:{server['port']}/metalab?sslmode=verify-full&sslrootcert={server[ca]}"
        made = PostgresStoreConfig(connection_string=uri, file_root=str(root), schema="python_encrypted")
        return made.scoped("exp:1")

    with config("ours").connect() as good, config("other").connect() as bad:
        good.put_run_record(RunRecord.success(run_id="run"))
        assert good.rebuild_index() == 1
        assert good.index_state().standing == "current"
        with pytest.raises(DatabaseError):
            bad.rebuild_index()
        assert bad.get_run_record("run") is not None
