"""The store's component in a runtime that knows nothing of it: PyPI's `wasmtime` alone, with WASI and one directory.

    python plain_runtime.py metalab_store_wasi.wasm ./experiments/my_exp_1.0 my_exp:1.0

`cargo xtask component` makes `target/component/metalab_store_wasi.wasm`: the store's component with a "no" linked in for
everything that it asks of a host besides WASI. A store that is only read needs no locks and no database.
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


def main(component, directory, experiment):
    """Prints the runs of an experiment, the newest first."""
    engine = Engine()
    store = Store(engine)
    wasi = WasiConfig()
    wasi.preopen_dir(directory, "store", False)
    store.set_wasi(wasi)
    binary = c.Component.from_file(engine, component)
    linker = c.Linker(engine)
    linker.add_wasip2()
    instance = linker.instantiate(store, binary)
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
