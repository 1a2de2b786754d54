"""Store configurations: values with functions, and locators."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from . import _instance
from ._engine import shared
from ._grant import Grant
from ._instance import Limits, Pool
from ._postgres import Binding, Server
from .errors import InvalidArgumentError, InvalidTypeError

if TYPE_CHECKING:
    from .store import FileStore, PostgresStore, Store

#: The prefix under which other libraries find this one.
_PREFIX = "component:"


class ExperimentList(list[str]):
    """The experiments of a collection, sorted, and the files that should name one and do not."""

    damaged: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """What the configurations of all stores have in common. It is a value: nothing is opened before `connect`."""

    scheme: ClassVar[str] = ""

    #: The experiment that the store is limited to. None, or an empty text: the whole collection.
    experiment_id: str | None = None
    #: Whether nothing may be created and nothing changed.
    read_only: bool = False
    #: What an acknowledged write survives: a power cut too (`full`), or a kill alone (`relaxed`).
    durability: Literal["full", "relaxed"] = "full"
    #: How long a write waits for another writer of the same run, in seconds.
    lock_timeout: float = 30.0
    #: What an instance of the component may use.
    limits: Limits = field(default_factory=Limits, repr=False)
    #: How many instances of the component may work at once. None: one a core.
    max_instances: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.limits, dict):
            # As `to_dict` has them.
            object.__setattr__(self, "limits", Limits(**self.limits))

    @property
    def is_scoped(self) -> bool:
        """Whether it is limited to an experiment."""
        return bool(self.experiment_id)

    def scoped(self, experiment_id: str) -> Self:
        """Returns the configuration limited to an experiment. `ValueError` if it is limited to another one."""
        wire = _instance.configure("scoped", self._wire(), experiment_id)
        if wire["experiment-id"] == self.experiment_id:
            return self
        return replace(self, experiment_id=wire["experiment-id"])

    def for_experiment(self, experiment_id: str) -> Self:
        """The same as `scoped`, under the name that reads better when browsing."""
        return self.scoped(experiment_id)

    def list_experiments(self) -> list[str]:
        """Lists the experiments of the collection, sorted. `ValueError` if it is limited to one.

        The answer's `damaged` names the files that should say which experiment a directory belongs to and do not.
        """
        # What is not there is an answer of the component's too; what is there and cannot be opened is an error.
        root = self._root()
        grant = Grant(root, None, False) if os.path.lexists(root) else None
        found = _instance.configure("list-experiments", self._wire(), grant=grant)
        answer = ExperimentList(found["experiments"])
        answer.damaged = found["damaged"]
        return answer

    def connect(self) -> Store[Any]:
        """Opens the store."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields, with the scheme as `_type`. A connection string is among them, as it was given."""
        return {**asdict(self), "_type": self.scheme}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> StoreConfig:
        """Makes a configuration of what `to_dict` returned."""
        values = dict(data)
        kind = values.pop("_type", None)
        if kind is None:
            raise InvalidArgumentError("Missing _type field in config dict")
        made = _SCHEMES.get(kind)
        if made is None:
            raise InvalidArgumentError(f"Unknown config type: {kind}")
        try:
            config: StoreConfig = made(**values)
        except InvalidArgumentError:
            raise
        except TypeError as error:
            raise InvalidTypeError(f"this is no configuration: {error}") from error
        return config

    def _root(self) -> str:
        raise NotImplementedError

    def _backend(self) -> tuple[str, Any]:
        return "file", None

    def _wire(self) -> dict[str, Any]:
        return {
            "backend": self._backend(),
            "root": self._root(),
            "experiment-id": self.experiment_id,
            "access": "read-only" if self.read_only else "read-write",
            "durability": self.durability,
            "lock-timeout-ms": _milliseconds("lock_timeout", self.lock_timeout),
        }

    def _open(self) -> tuple[Pool, list[str]]:
        root = self._root()
        kind, _ = self._backend()
        # Credentials of a server may lie in the collection: only then is it looked at.
        grant = Grant(root, None, False) if kind == "postgres" and os.path.isdir(root) else None
        resolved = _instance.configure("resolve", self._wire(), grant=grant)
        instances = self.max_instances or os.cpu_count() or 1
        if not isinstance(instances, int):
            raise InvalidTypeError(f"max_instances: expected an integer, not {type(instances).__name__}")
        options = resolved["options"]
        bindings: dict[str, Binding] = {}
        if options["index"] is not None and resolved["connection"] is not None:
            bindings[options["index"]["binding"]] = Binding(Server.resolved(resolved["connection"]))
        pool = Pool(
            shared(),
            Grant(root, resolved["subdirectory"], not self.read_only),
            options,
            self.limits,
            instances,
            bindings,
        )
        return pool, resolved["warnings"]


def _absolute(root: str | os.PathLike[str]) -> str:
    try:
        # Links resolved as far as it exists; `~` is not expanded.
        return os.path.realpath(os.fspath(root))
    except TypeError as error:
        raise InvalidTypeError(f"the root: {error}") from None
    except ValueError as error:
        raise InvalidArgumentError(f"the root {root!r}: {error}") from None


def _milliseconds(name: str, seconds: float) -> int:
    if not isinstance(seconds, (int, float)):
        raise InvalidTypeError(f"{name}: expected a number of seconds, not {type(seconds).__name__}")
    if seconds != seconds:
        raise InvalidArgumentError(f"{name}: {seconds} is no number of seconds")
    return int(min(max(seconds * 1000, 0), 0xFFFF_FFFF))


@dataclass(frozen=True, kw_only=True)
class FileStoreConfig(StoreConfig):
    """The configuration of a store of files.

    The path becomes absolute now, with links resolved as far as it exists; it need not exist.
    """

    scheme: ClassVar[str] = "file"

    root: str

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "root", _absolute(self.root))

    @classmethod
    def from_locator(cls, info: Any, **kwargs: Any) -> FileStoreConfig:
        """Makes a configuration of a locator: its text, or what another library parsed it to.

        `experiment_id` of the keywords goes before that of the locator.
        """
        if isinstance(info, str):
            made = parse_to_config(info, **kwargs)
            if not isinstance(made, FileStoreConfig):
                raise InvalidArgumentError("this is not the locator of a store of files")
            return made
        parameters = getattr(info, "params", None) or {}
        made = cls(root=info.path, experiment_id=parameters.get("experiment_id"))
        return replace(made, **_given(made, kwargs))

    def connect(self) -> FileStore:
        """Opens the store."""
        from .store import FileStore

        return FileStore(self)

    def _root(self) -> str:
        return self.root


@dataclass(frozen=True, kw_only=True)
class PostgresStoreConfig(StoreConfig):
    """The configuration of a store of files with PostgreSQL as query index."""

    scheme: ClassVar[str] = "postgresql"

    #: A URI or keyword string. It is not shown: it may hold a password.
    connection_string: str = field(repr=False)
    file_root: str
    schema: str = "public"
    auto_migrate: bool = True
    connect_timeout: float = 10.0
    pool_min_size: int = 1
    pool_max_size: int = 2
    #: Whether the tables of metalab are written too, for its web application.
    projection: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "file_root", _absolute(self.file_root))

    @classmethod
    def from_locator(cls, info: Any, **kwargs: Any) -> PostgresStoreConfig:
        """Makes a configuration of a locator: its text, or what another library parsed it to."""
        text = info if isinstance(info, str) else info.raw
        made = parse_to_config(text, **kwargs)
        if not isinstance(made, PostgresStoreConfig):
            raise InvalidArgumentError("this is not the locator of a store in PostgreSQL")
        return made

    def connect(self) -> PostgresStore:
        """Opens the store. Credentials that the connection string lacks are looked for in `services/postgres`."""
        from .store import PostgresStore

        return PostgresStore(self)

    def _root(self) -> str:
        return self.file_root

    def _backend(self) -> tuple[str, Any]:
        return "postgres", {
            "connection-string": self.connection_string,
            "schema": self.schema,
            "auto-migrate": self.auto_migrate,
            "connect-timeout-ms": _milliseconds("connect_timeout", self.connect_timeout),
            "pool-min-size": self.pool_min_size,
            "pool-max-size": self.pool_max_size,
            "projection": self.projection,
        }


_SCHEMES: dict[str, type[Any]] = {
    "file": FileStoreConfig,
    "postgresql": PostgresStoreConfig,
    "postgres": PostgresStoreConfig,
}


def _with_file_root(locator: str, file_root: str | os.PathLike[str]) -> str:
    from urllib.parse import quote

    sign = "&" if "?" in locator else "?"
    return f"{locator}{sign}file_root={quote(os.fspath(file_root), safe='/')}"


def parse_to_config(locator: str, **kwargs: Any) -> FileStoreConfig | PostgresStoreConfig:
    """Makes a configuration of a locator.

    For instance `./experiments`, `file:///data/experiments?experiment_id=my_exp:1.0`,
    `postgresql://host/database?file_root=/data/experiments`, each with `component:` before it or without. `file_root`
    and all fields of a configuration can be given as keywords; they go before what the locator says.
    """
    if not isinstance(locator, str):
        raise InvalidTypeError(f"the locator: expected a text, not {type(locator).__name__}")
    text = locator.strip().removeprefix(_PREFIX)
    file_root = kwargs.pop("file_root", None)
    if file_root is not None and text.startswith(("postgresql:", "postgres:")) and "file_root=" not in text:
        text = _with_file_root(text, file_root)
        file_root = None
    wire = _instance.configure("from-locator", text)
    common: dict[str, Any] = {
        "experiment_id": wire["experiment-id"],
        "read_only": wire["access"] == "read-only",
        "durability": wire["durability"],
        "lock_timeout": wire["lock-timeout-ms"] / 1000,
    }
    kind, backend = wire["backend"]
    made: FileStoreConfig | PostgresStoreConfig
    if kind == "postgres":
        made = PostgresStoreConfig(
            connection_string=backend["connection-string"],
            file_root=file_root or wire["root"],
            schema=backend["schema"],
            auto_migrate=backend["auto-migrate"],
            connect_timeout=backend["connect-timeout-ms"] / 1000,
            pool_min_size=backend["pool-min-size"],
            pool_max_size=backend["pool-max-size"],
            projection=backend["projection"],
            **common,
        )
    else:
        made = FileStoreConfig(root=wire["root"], **common)
    return replace(made, **_given(made, kwargs))


def _given(config: StoreConfig, keywords: dict[str, Any]) -> dict[str, Any]:
    """Returns the keywords that say something about a configuration; None says nothing."""
    known = {item.name for item in fields(config)}
    return {name: value for name, value in keywords.items() if name in known and value is not None}


class ComponentStoreConfig:
    """What the entry point `component` of the group `metalab.stores` names.

    Called with the fields of a configuration, it makes one: a `FileStoreConfig`, or a `PostgresStoreConfig` where there is a
    connection string. The `_type` in its dictionary is `component`, so that a library that looks for `_type` among the
    entry points makes this package's configuration of it again, and not one of its own.
    """

    scheme: ClassVar[str] = "component"

    def __new__(cls, **fields: Any) -> ComponentStoreConfig:
        if cls is ComponentStoreConfig:
            cls = _ComponentPostgresConfig if "connection_string" in fields else _ComponentFileConfig
        return object.__new__(cls)

    @classmethod
    def from_locator(cls, info: Any, **kwargs: Any) -> FileStoreConfig | PostgresStoreConfig:
        """Makes a configuration of a locator such as `component:./experiments`."""
        made = parse_to_config(info if isinstance(info, str) else info.raw, **kwargs)
        kind = _ComponentFileConfig if isinstance(made, FileStoreConfig) else _ComponentPostgresConfig
        return kind(**{item.name: getattr(made, item.name) for item in fields(made)})


class _ComponentFileConfig(FileStoreConfig, ComponentStoreConfig):
    """A store of files, named by the entry point."""

    scheme: ClassVar[str] = "component"


class _ComponentPostgresConfig(PostgresStoreConfig, ComponentStoreConfig):
    """A store with PostgreSQL as query index, named by the entry point."""

    scheme: ClassVar[str] = "component"


_SCHEMES["component"] = ComponentStoreConfig


def create_store(locator: str = "./experiments", **kwargs: Any) -> Store[Any]:
    """Opens the store that a locator names."""
    return parse_to_config(locator, **kwargs).connect()
