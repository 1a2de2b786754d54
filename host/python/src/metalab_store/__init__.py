"""metalab-store: run records, metrics, results, logs, artifacts and manifests, as plain files.

The storage logic is a WebAssembly component that this package carries. It sees the one directory of the store, and
nothing else.

    from metalab_store import FileStoreConfig, RunRecord

    with FileStoreConfig(root="./experiments").scoped("my_exp:1.0").connect() as store:
        store.put_run_record(RunRecord.success(run_id="0123456789abcdef", metrics={"loss": 0.25}))
        print(store.query("metrics.loss < 0.5", columns="run_id, metrics.loss").rows)
"""

from ._engine import component_bytes
from ._instance import Limits
from .config import (
    ComponentStoreConfig,
    FileStoreConfig,
    PostgresStoreConfig,
    StoreConfig,
    create_store,
    parse_to_config,
)
from .errors import (
    AlreadyExistsError,
    ArtifactNotFoundError,
    ClosedError,
    ConflictError,
    CorruptError,
    DatabaseError,
    EngineError,
    InvalidArgumentError,
    InvalidNameError,
    InvalidQueryError,
    IoError,
    LimitExceededError,
    LockedError,
    LocksUnavailableError,
    NotFoundError,
    NotGrantedError,
    PluginMissingError,
    PluginVersionError,
    PluginWorldError,
    ReadOnlyError,
    RootError,
    StoreError,
    TooLargeError,
    TrapError,
    UnrepresentableError,
)
from .plugins import DeriveProgress, DeriveReport, Plugin, PluginLimits, RunFailure, derive
from .records import ArtifactDescriptor, Metric, Provenance, RunRecord, Status
from .store import (
    Damage,
    Field,
    Fields,
    FileStore,
    IndexState,
    LogChunk,
    ManifestHeader,
    Page,
    PostgresStore,
    RebuildReport,
    RunRecords,
    Store,
)

__all__ = [
    "AlreadyExistsError",
    "ArtifactDescriptor",
    "ArtifactNotFoundError",
    "ClosedError",
    "ComponentStoreConfig",
    "ConflictError",
    "CorruptError",
    "Damage",
    "DatabaseError",
    "DeriveProgress",
    "DeriveReport",
    "EngineError",
    "Field",
    "Fields",
    "FileStore",
    "FileStoreConfig",
    "IndexState",
    "InvalidArgumentError",
    "InvalidNameError",
    "InvalidQueryError",
    "IoError",
    "LimitExceededError",
    "Limits",
    "LockedError",
    "LocksUnavailableError",
    "LogChunk",
    "ManifestHeader",
    "Metric",
    "NotFoundError",
    "NotGrantedError",
    "Page",
    "Plugin",
    "PluginLimits",
    "PluginMissingError",
    "PluginVersionError",
    "PluginWorldError",
    "PostgresStore",
    "PostgresStoreConfig",
    "Provenance",
    "ReadOnlyError",
    "RebuildReport",
    "RootError",
    "RunFailure",
    "RunRecord",
    "RunRecords",
    "Status",
    "Store",
    "StoreConfig",
    "StoreError",
    "TooLargeError",
    "TrapError",
    "UnrepresentableError",
    "component_bytes",
    "create_store",
    "derive",
    "parse_to_config",
]
