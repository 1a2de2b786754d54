"""Functions of Python for the component to call, on the values of `_values`.

`wasmtime` has them too; but there each call asks the C library for all its types again, and what a function raises is
kept in one place for all threads.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable
from typing import Any

from wasmtime import StoreContext, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime import component as c

from . import _values

_log = logging.getLogger(__name__)

#: Takes the store and the arguments.
Function = Callable[..., Any]


class _Interrupts(threading.local):
    pending: BaseException | None = None


_interrupts = _Interrupts()


def take_interrupt() -> BaseException | None:
    """Returns what interrupted a host function of the call that this thread made, once."""
    pending, _interrupts.pending = _interrupts.pending, None
    return pending


class _Defined:
    __slots__ = ("function", "signature")

    def __init__(self, function: Function) -> None:
        self.function = function
        self.signature: _values.Signature | None = None


#: What the numbers that the C library keeps stand for. There are as many as the contract has functions, for each
#: engine: they stay.
_defined: list[_Defined] = []


def add(instance: c.LinkerInstance, name: str, function: Function) -> None:
    """Defines a function of an interface."""
    _defined.append(_Defined(function))
    encoded = name.encode()
    failed = ffi.wasmtime_component_linker_instance_add_func(
        instance.ptr(), encoded, len(encoded), _call, len(_defined) - 1, _forget
    )
    if failed:
        raise WasmtimeError._from_ptr(failed)


def _called(number: int | None, context: Any, ty: Any, arguments: Any, count: int, results: Any, _: int) -> Any:
    store = StoreContext(context)
    try:
        defined = _defined[number or 0]
        signature = defined.signature
        if signature is None:
            found = c.FuncType._from_ptr(ty, owner=store)
            signature = defined.signature = _values.Signature.of(found)
        given = [codec.lift(arguments[index]) for index, codec in enumerate(signature.parameters)]
        answer = defined.function(store, *given)
        if signature.result is not None:
            signature.result.lower(store, answer, results[0])  # type: ignore[arg-type]
        return 0
    except WasmtimeError as error:
        return trap(str(error))
    except (KeyboardInterrupt, SystemExit) as interrupt:
        # It cannot pass through the component: the call ends by a trap, and whoever made it raises this.
        _interrupts.pending = interrupt
        return trap("interrupted")
    except BaseException as error:  # noqa: BLE001
        # The functions here raise nothing, so this is a mistake of the host: the call traps, and the log says why.
        _log.exception("a host function failed")
        return trap(f"a host function failed: {error}")
    finally:
        store._invalidate()


def trap(message: str) -> int | None:
    """Returns what a function that the C library called answers with, so that the component traps."""
    return ctypes.cast(WasmtimeError(message)._consume(), ctypes.c_void_p).value


#: What the C library calls. They live as long as the module.
_call = ffi.wasmtime_component_func_callback_t(_called)
_forget = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
