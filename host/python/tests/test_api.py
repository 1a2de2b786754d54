"""Names, parameters, their order and their defaults are those of metalab's own stores: what is called there can be called here."""

from __future__ import annotations

import dataclasses
import inspect
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from conftest import TARGET

import metalab_store as m

REQUIRED = inspect.Parameter.empty

#: The methods of `FileStore`, with their parameters in order.
STORE: dict[str, list[tuple[str, Any]]] = {
    "delete_run": [("run_id", REQUIRED)],
    "derived_exists": [("run_id", REQUIRED)],
    "get_artifact": [("uri", REQUIRED)],
    "get_derived": [("run_id", REQUIRED)],
    "get_experiment_manifest": [("experiment_id", REQUIRED)],
    "get_log": [("run_id", REQUIRED), ("name", REQUIRED)],
    "get_log_path": [("run_id", REQUIRED), ("name", REQUIRED)],
    "get_result": [("run_id", REQUIRED), ("name", REQUIRED)],
    "get_run_record": [("run_id", REQUIRED)],
    "get_working_directory": [],
    "list_artifacts": [("run_id", REQUIRED)],
    "list_logs": [("run_id", REQUIRED)],
    "list_results": [("run_id", REQUIRED)],
    "list_run_records": [("experiment_id", None)],
    "open_artifact": [("uri", REQUIRED)],
    "put_artifact": [("data", REQUIRED), ("descriptor", REQUIRED)],
    "put_derived": [("run_id", REQUIRED), ("derived", REQUIRED)],
    "put_experiment_manifest": [("experiment_id", REQUIRED), ("manifest", REQUIRED), ("timestamp", None)],
    "put_log": [("run_id", REQUIRED), ("name", REQUIRED), ("content", REQUIRED)],
    "put_result": [
        ("run_id", REQUIRED), ("name", REQUIRED), ("data", REQUIRED), ("dtype", None), ("shape", None), ("metadata", None),
    ],
    "put_run_record": [("record", REQUIRED)],
    "run_exists": [("run_id", REQUIRED)],
    "scoped": [("experiment_id", REQUIRED)],
}  # fmt: skip
POSTGRES_STORE: dict[str, list[tuple[str, Any]]] = {"close": [], "rebuild_index": [("progress", None)]}
CONFIG: dict[str, list[tuple[str, Any]]] = {
    "connect": [],
    "for_experiment": [("experiment_id", REQUIRED)],
    "from_locator": [("info", REQUIRED)],
    "list_experiments": [],
    "scoped": [("experiment_id", REQUIRED)],
    "to_dict": [],
}
#: The fields of the dataclasses, in order.
FIELDS: dict[type, list[tuple[str, Any]]] = {
    m.FileStoreConfig: [("experiment_id", None), ("root", REQUIRED)],
    m.PostgresStoreConfig: [
        ("experiment_id", None),
        ("connection_string", REQUIRED),
        ("file_root", REQUIRED),
        ("schema", "public"),
        ("auto_migrate", True),
        ("connect_timeout", 10.0),
        ("pool_min_size", 1),
        ("pool_max_size", 2),
    ],
    m.RunRecord: [
        ("run_id", REQUIRED),
        ("experiment_id", REQUIRED),
        ("status", REQUIRED),
        ("context_fingerprint", REQUIRED),
        ("params_fingerprint", REQUIRED),
        ("seed_fingerprint", REQUIRED),
        ("started_at", REQUIRED),
        ("finished_at", REQUIRED),
        ("duration_ms", REQUIRED),
        ("metrics", {}),
        ("provenance", m.Provenance()),
        ("error", None),
        ("params_resolved", {}),
        ("tags", []),
        ("warnings", []),
        ("notes", None),
        ("artifacts", []),
    ],
    m.Provenance: [
        ("code_hash", None),
        ("python_version", None),
        ("metalab_version", None),
        ("executor_id", None),
        ("host", None),
        ("extra", {}),
    ],
    m.ArtifactDescriptor: [
        ("artifact_id", REQUIRED),
        ("name", REQUIRED),
        ("kind", "blob"),
        ("format", "binary"),
        ("uri", ""),
        ("content_hash", None),
        ("size_bytes", None),
        ("metadata", {}),
    ],
}


@pytest.mark.parametrize(
    ("owner", "methods"),
    [
        (m.FileStore, STORE),
        (m.PostgresStore, {**STORE, **POSTGRES_STORE}),
        (m.FileStoreConfig, CONFIG),
        (m.PostgresStoreConfig, CONFIG),
    ],
)
def test_methods_are_called_as_metalab_calls_them(owner: type, methods: dict[str, list[tuple[str, Any]]]) -> None:
    for name, expected in methods.items():
        made = inspect.signature(getattr(owner, name)).parameters.values()
        positional = [(one.name, one.default) for one in made if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self"]
        assert positional[: len(expected)] == expected, name
        # What there is more can be left out.
        more = positional[len(expected) :] + [(one.name, one.default) for one in made if one.kind is one.KEYWORD_ONLY]
        assert [name for name, default in more if default is REQUIRED] == [], name


def default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


@pytest.mark.parametrize("owner", FIELDS)
def test_dataclasses_have_the_fields_and_the_order_of_metalab_s(owner: type) -> None:
    fields = dataclasses.fields(owner)
    expected = FIELDS[owner]
    known = dict(expected)
    assert [(field.name, default(field)) for field in fields if field.name in known] == expected
    # What there is more can be left out, and is in nobody's way.
    more = [field for field in fields if field.name not in known]
    assert all(default(field) is not REQUIRED for field in more)
    if issubclass(owner, m.StoreConfig):
        assert all(field.kw_only for field in fields)
    else:
        assert [field.name for field in fields[: len(expected)]] == [name for name, _ in expected]


def test_constants_and_kinds_are_those_of_metalab() -> None:
    assert {status.name: status.value for status in m.Status} == {
        "SUCCESS": "success", "FAILED": "failed", "CANCELLED": "cancelled", "RUNNING": "running",
    }  # fmt: skip
    assert (m.FileStoreConfig.scheme, m.PostgresStoreConfig.scheme) == ("file", "postgresql")
    for owner in (m.FileStoreConfig, m.PostgresStoreConfig):
        assert issubclass(owner, m.StoreConfig) and dataclasses.is_dataclass(owner)
        assert isinstance(inspect.getattr_static(owner, "is_scoped"), property)
    for owner in (m.FileStore, m.PostgresStore):
        for name in ("config", "is_scoped", "root"):
            assert isinstance(inspect.getattr_static(owner, name), property)
        assert {"__enter__", "__exit__"} <= set(dir(owner))
    assert isinstance(inspect.getattr_static(m.PostgresStore, "file_store"), property)


def test_what_the_package_says_it_has_is_there() -> None:
    assert sorted(m.__all__) == list(m.__all__)
    for name in m.__all__:
        assert getattr(m, name) is not None
    public = {name for name, value in vars(m).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(m.__all__)


def test_the_wheel_says_that_it_is_typed_and_holds_the_component() -> None:
    assert (resources.files("metalab_store") / "py.typed").is_file()
    wheels = list((TARGET / "python" / "wheels").glob("*.whl")) if TARGET.exists() else []
    if not wheels:
        pytest.skip("there is no wheel: run by `cargo xtask test`")
    sources = {path.name for path in Path(m.__file__).parent.glob("*.py")}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        assert {"metalab_store/py.typed", "metalab_store/component/metalab_store.wasm"} <= names
        assert {f"metalab_store/{name}" for name in sources} <= names
        assert not [name for name in names if name.startswith("tests/")]
