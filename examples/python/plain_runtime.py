"""The store's component in a runtime that knows nothing of it: PyPI's `wasmtime` alone, with WASI and one directory.

    python plain_runtime.py metalab_store.wasm ./experiments/my_exp_1.0 my_exp:1.0

What the store asks of a host besides WASI is answered with "no" here: a store that is only read needs no locks and no
database. `target/component/metalab_store.wasm` is the component.
"""

import json
import sys

from wasmtime import Engine, Store, WasiConfig
from wasmtime import component as c

CONTRACT = "metalab:store/{}@0.1.0"


def record(**fields):
    """Makes a record of the contract; its names have hyphens."""
    made = c.Record()
    vars(made).update({name.replace("_", "-"): value for name, value in fields.items()})
    return made


def no_database(*_):
    """Answers a call of a database."""
    return record(kind="not-granted", sqlstate=None, retryable=False, outcome_unknown=False, message="no database")


def no_rows(*_):
    """As `no_database`, where an answer would be a record too: then this runtime wants to know which case it is."""
    return c.Variant("err", no_database())


def no_lock(*_):
    """Answers whoever wants a lock."""
    return c.Variant("no-directory")


def link(engine):
    """Returns a linker with WASI, and a "no" to everything else."""
    linker = c.Linker(engine)
    linker.add_wasip2()
    with linker.root() as root:
        with root.add_instance(CONTRACT.format("roots")) as roots:
            roots.add_resource("lock", c.ResourceType.host(1), lambda store, number: None)
            roots.add_func("[method]lock.set-content", no_lock)
            roots.add_func("acquire", no_lock)
            roots.add_func("sync", lambda *_: None)
            roots.add_func("get-identity", lambda *_: record(machine="", boot="", device=0, inode=0))
            roots.add_func("utc-offset", lambda *_: 0)
        with root.add_instance(CONTRACT.format("bulk")) as bulk:
            bulk.add_resource("reader", c.ResourceType.host(5), lambda store, number: None)
            for name in ("list", "look", "digest", "read"):
                bulk.add_func(name, lambda *_: None)
            bulk.add_func("[method]reader.next", lambda *_: "")
        with root.add_instance(CONTRACT.format("postgres")) as postgres:
            for number, name in enumerate(("transaction", "cursor", "copy-writer"), 2):
                postgres.add_resource(name, c.ResourceType.host(number), lambda store, number: None)
            for name in ("query", "[method]transaction.query", "[method]cursor.next"):
                postgres.add_func(name, no_rows)
            methods = ("execute", "batch", "open-cursor", "copy-in", "commit")
            for name in (
                *("execute", "batch", "[static]transaction.begin"),
                *(f"[method]transaction.{method}" for method in methods),
                *("[method]copy-writer.write", "[method]copy-writer.finish"),
            ):
                postgres.add_func(name, no_database)
    return linker


def main(component, directory, experiment):
    """Prints the runs of an experiment, the newest first."""
    engine = Engine()
    store = Store(engine)
    wasi = WasiConfig()
    wasi.preopen_dir(directory, "store", False)
    store.set_wasi(wasi)
    binary = c.Component.from_file(engine, component)
    instance = link(engine).instantiate(store, binary)
    interface = binary.get_export_index(CONTRACT.format("store"))

    def call(name, *arguments):
        func = instance.get_func(store, instance.get_export_index(store, name, interface))
        answer = func(store, *arguments)
        func.post_return(store)
        if isinstance(answer, c.Variant):
            # No call here returns a variant: it is an error of the contract.
            sys.exit(f"{answer.tag}: {getattr(answer.payload, 'message', answer.payload)}")
        return answer

    options = record(
        directory=directory,
        experiment_id=experiment,
        access="read-only",
        durability="full",
        lock_timeout_ms=0,
        index=None,
    )
    opened = call("[static]store.open", options)
    runs = call("[method]store.list-run-records", opened, None)
    while lines := call("[method]run-list.next-lines", runs, 1 << 20):
        for line in lines.splitlines():
            run = json.loads(line)
            print(run["run_id"], run["status"], run["metrics"])


if __name__ == "__main__":
    main(*sys.argv[1:])
