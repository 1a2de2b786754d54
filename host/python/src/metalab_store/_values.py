"""Values between Python and the component: compiled once for a function, not looked up again for each call.

`wasmtime` itself asks the C library for every type at every call, makes one Python object for each byte of a
`list<u8>`, and leaves variants without their tag where the types of the payloads differ. Here records are
dictionaries by their WIT names, variants are pairs of tag and payload, results are pairs of success and payload, and
`list<u8>` is `bytes`, moved as a block.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from wasmtime import Store, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime import component as c
from wasmtime.component import _types as t

from .errors import InvalidArgumentError, InvalidTypeError

#: The C library once more: of this one, a call keeps the interpreter's lock.
_keeping: Final = ctypes.PyDLL(str(ffi.filename))


def short_call(name: str) -> Any:
    """Returns a function of the C library that is over before another thread could use the interpreter's lock.

    To give the lock away and to get it back takes longer, and while other threads work, much longer. Not for what runs
    code of a component, or waits.
    """
    function, declared = getattr(_keeping, name), getattr(ffi.dll, name)
    function.argtypes, function.restype = declared.argtypes, declared.restype
    return function


_delete = short_call("wasmtime_component_val_delete")
_new_bytes = short_call("wasm_byte_vec_new")
_new_bytes.argtypes = [_new_bytes.argtypes[0], ctypes.c_size_t, ctypes.c_char_p]

#: Reads a text where it lies. To copy its bytes first takes ten times as long when it is a page of a list.
_decode = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_char_p)(
    ("PyUnicode_DecodeUTF8", ctypes.pythonapi)
)

#: The memory of one value of the C library.
_Value = ffi.wasmtime_component_val_t
_SIZE = ctypes.sizeof(_Value)
_PAYLOAD = _Value.of.offset
#: Writes a Python value into memory of the C library that is all zero: a valid value, `false`.
Lower = Callable[[Store, Any, Any], None]
#: Reads memory of the C library, which stays its owner.
Lift = Callable[[Any], Any]


#: What users call the types of numbers, by their fields in the C library.
_CALLED = {
    "boolean": "a truth value",
    "u8": "an integer of 8 bits that is not negative",
    "u16": "an integer of 16 bits that is not negative",
    "u32": "an integer of 32 bits that is not negative",
    "u64": "an integer of 64 bits that is not negative",
    "s32": "an integer of 32 bits",
    "s64": "an integer of 64 bits",
    "f64": "a number",
}


def _text(value: str) -> Any:
    """Returns a text of the C library, which whoever gets it frees."""
    encoded = value.encode()
    made = ffi.wasm_byte_vec_t()
    _new_bytes(ctypes.byref(made), len(encoded), encoded)
    return made


def _wrong(expected: str, value: Any) -> InvalidTypeError:
    return InvalidTypeError(f"expected {expected}, not {type(value).__name__}")


def _within(name: str, error: InvalidArgumentError) -> InvalidArgumentError:
    """Says in which argument, or in which part of one, an error is."""
    return type(error)(f"{name}: {error.message}")


class Codec:
    """How the values of one type are written and read."""

    __slots__ = ("lower", "lift")

    def __init__(self, lower: Lower, lift: Lift) -> None:
        self.lower = lower
        self.lift = lift


def _scalar(kind: Any, field: str, accepted: type | tuple[type, ...]) -> Codec:
    number = kind.value

    def lower(_: Store, value: Any, out: Any) -> None:
        if not isinstance(value, accepted):
            raise _wrong(_CALLED[field], value)
        # Set before the kind: a number that does not fit is found by ctypes only where it is told to look.
        setattr(out.of, field, value)
        if accepted is int and getattr(out.of, field) != value:
            raise InvalidArgumentError(f"the number is out of range: {_CALLED[field]} was expected")
        out.kind = number

    def lift(value: Any) -> Any:
        return getattr(value.of, field)

    return Codec(lower, lift)


def _string(kind: Any, field: str, names: tuple[str, ...] = ()) -> Codec:
    number = kind.value

    def lower(_: Store, value: Any, out: Any) -> None:
        if not isinstance(value, str):
            raise _wrong("a text", value)
        if names and value not in names:
            raise InvalidArgumentError(f"there is no {value!r}; there are {', '.join(names)}")
        try:
            given = _text(value)
        except UnicodeEncodeError:
            raise InvalidArgumentError("the text holds a lone surrogate") from None
        setattr(out.of, field, given)
        out.kind = number

    def lift(value: Any) -> str:
        text = getattr(value.of, field)
        decoded: str = _decode(text.data, text.size, None) if text.size else ""
        return decoded

    return Codec(lower, lift)


def _bytes() -> Codec:
    kind = ffi.WASMTIME_COMPONENT_LIST.value
    byte = bytes([ffi.WASMTIME_COMPONENT_U8.value])

    def lower(_: Store, value: Any, out: Any) -> None:
        if not isinstance(value, bytes):
            raise _wrong("bytes", value)
        raw = ffi.wasmtime_component_vallist_t()
        ffi.wasmtime_component_vallist_new_uninit(raw, len(value))
        block = bytearray(len(value) * _SIZE)
        block[::_SIZE] = byte * len(value)
        block[_PAYLOAD::_SIZE] = value
        ctypes.memmove(raw.data, (ctypes.c_char * len(block)).from_buffer(block), len(block))
        out.of.list = raw
        out.kind = kind

    def lift(value: Any) -> bytes:
        raw = value.of.list
        if not raw.size:
            return b""
        return ctypes.string_at(raw.data, raw.size * _SIZE)[_PAYLOAD::_SIZE]

    return Codec(lower, lift)


def _list(element: Codec) -> Codec:
    kind = ffi.WASMTIME_COMPONENT_LIST.value

    def lower(store: Store, value: Any, out: Any) -> None:
        try:
            values = list(value)
        except TypeError:
            raise _wrong("a list", value) from None
        raw = ffi.wasmtime_component_vallist_t()
        ffi.wasmtime_component_vallist_new_uninit(raw, len(values))
        if values:
            ctypes.memset(raw.data, 0, len(values) * _SIZE)
        # Handed over first: whatever fails on the way, its owner frees it.
        out.of.list = raw
        out.kind = kind
        for index, item in enumerate(values):
            element.lower(store, item, raw.data[index])

    def lift(value: Any) -> list[Any]:
        raw = value.of.list
        data, one = raw.data, element.lift
        return [one(data[index]) for index in range(raw.size)]

    return Codec(lower, lift)


def _tuple(elements: list[Codec]) -> Codec:
    kind = ffi.WASMTIME_COMPONENT_TUPLE.value
    count = len(elements)

    def lower(store: Store, value: Any, out: Any) -> None:
        if len(value) != count:
            raise TypeError(f"expected {count} values")
        raw = ffi.wasmtime_component_valtuple_t()
        ffi.wasmtime_component_valtuple_new_uninit(raw, count)
        ctypes.memset(raw.data, 0, count * _SIZE)
        out.of.tuple = raw
        out.kind = kind
        for index, element in enumerate(elements):
            element.lower(store, value[index], raw.data[index])

    def lift(value: Any) -> tuple[Any, ...]:
        data = value.of.tuple.data
        return tuple(element.lift(data[index]) for index, element in enumerate(elements))

    return Codec(lower, lift)


def _record(fields: list[tuple[str, Codec]]) -> Codec:
    kind = ffi.WASMTIME_COMPONENT_RECORD.value
    size = ctypes.sizeof(ffi.wasmtime_component_valrecord_entry_t)

    def lower(store: Store, value: Any, out: Any) -> None:
        raw = ffi.wasmtime_component_valrecord_t()
        ffi.wasmtime_component_valrecord_new_uninit(raw, len(fields))
        ctypes.memset(raw.data, 0, len(fields) * size)
        out.of.record = raw
        out.kind = kind
        for index, (name, field) in enumerate(fields):
            raw.data[index].name = _text(name)
            try:
                field.lower(store, value[name], raw.data[index].val)
            except InvalidArgumentError as error:
                raise _within(name, error) from None

    def lift(value: Any) -> dict[str, Any]:
        data = value.of.record.data
        # They come in the order of the type.
        return {name: field.lift(data[index].val) for index, (name, field) in enumerate(fields)}

    return Codec(lower, lift)


def _boxed(store: Store, payload: Codec | None, value: Any) -> Any:
    """Returns a pointer to a value of its own, or null if the case has none."""
    if payload is None:
        return None
    raw = _Value()
    try:
        payload.lower(store, value, raw)
    except BaseException:
        _delete(ctypes.byref(raw))
        raise
    # Moves what it is given to the heap.
    return ffi.wasmtime_component_val_new(ctypes.byref(raw))


def _option(payload: Codec) -> Codec:
    kind = ffi.WASMTIME_COMPONENT_OPTION.value

    def lower(store: Store, value: Any, out: Any) -> None:
        out.of.option = None if value is None else _boxed(store, payload, value)
        out.kind = kind

    def lift(value: Any) -> Any:
        inner = value.of.option
        return payload.lift(inner.contents) if inner else None

    return Codec(lower, lift)


def _result(ok: Codec | None, error: Codec | None) -> Codec:
    kind = ffi.WASMTIME_COMPONENT_RESULT.value

    def lower(store: Store, value: Any, out: Any) -> None:
        good, payload = value
        raw = _boxed(store, ok if good else error, payload)
        out.of.result.is_ok = good
        out.of.result.val = raw
        out.kind = kind

    def lift(value: Any) -> tuple[bool, Any]:
        raw = value.of.result
        good = bool(raw.is_ok)
        case = ok if good else error
        return good, None if case is None else case.lift(raw.val.contents)

    return Codec(lower, lift)


def _variant(cases: dict[str, Codec | None]) -> Codec:
    kind = ffi.WASMTIME_COMPONENT_VARIANT.value

    def lower(store: Store, value: Any, out: Any) -> None:
        tag, payload = value
        if tag not in cases:
            raise ValueError(f"there is no case {tag!r}")
        raw = _boxed(store, cases[tag], payload)
        out.of.variant.discriminant = _text(tag)
        out.of.variant.val = raw
        out.kind = kind

    def lift(value: Any) -> tuple[str, Any]:
        raw = value.of.variant
        tag: str = _decode(raw.discriminant.data, raw.discriminant.size, None)
        case = cases[tag]
        return tag, None if case is None else case.lift(raw.val.contents)

    return Codec(lower, lift)


def _resource(ty: Any) -> Codec:
    def lower(store: Store, value: Any, out: Any) -> None:
        ty.convert_to_c(store, value, ctypes.pointer(out))

    def lift(value: Any) -> c.ResourceAny:
        resource: c.ResourceAny = ty.convert_from_c(value)
        # It is ours now: what is freed afterwards is an empty value.
        value.kind = ffi.WASMTIME_COMPONENT_BOOL.value
        return resource

    return Codec(lower, lift)


_SCALARS: dict[type, Codec] = {
    t.Bool: _scalar(ffi.WASMTIME_COMPONENT_BOOL, "boolean", bool),
    t.U8: _scalar(ffi.WASMTIME_COMPONENT_U8, "u8", int),
    t.U16: _scalar(ffi.WASMTIME_COMPONENT_U16, "u16", int),
    t.U32: _scalar(ffi.WASMTIME_COMPONENT_U32, "u32", int),
    t.U64: _scalar(ffi.WASMTIME_COMPONENT_U64, "u64", int),
    t.S32: _scalar(ffi.WASMTIME_COMPONENT_S32, "s32", int),
    t.S64: _scalar(ffi.WASMTIME_COMPONENT_S64, "s64", int),
    t.F64: _scalar(ffi.WASMTIME_COMPONENT_F64, "f64", (float, int)),
    t.String: _string(ffi.WASMTIME_COMPONENT_STRING, "string"),
}


def compile_type(ty: Any) -> Codec:
    """Returns how values of a type of the component are written and read."""
    if (scalar := _SCALARS.get(type(ty))) is not None:
        return scalar
    if isinstance(ty, t.EnumType):
        names = tuple(ty.name(number) or "" for number in range(ty.names_count))
        return _string(ffi.WASMTIME_COMPONENT_ENUM, "enumeration", names)
    if isinstance(ty, t.ListType):
        element = ty.element
        return _bytes() if isinstance(element, t.U8) else _list(compile_type(element))
    if isinstance(ty, t.RecordType):
        return _record([(name, compile_type(field)) for name, field in ty.fields])
    if isinstance(ty, t.TupleType):
        return _tuple([compile_type(element) for element in ty.elements])
    if isinstance(ty, t.OptionType):
        return _option(compile_type(ty.payload))
    if isinstance(ty, t.ResultType):
        return _result(_maybe(ty.ok), _maybe(ty.err))
    if isinstance(ty, t.VariantType):
        return _variant({name: _maybe(case) for name, case in ty.cases})
    if isinstance(ty, (t.OwnType, t.BorrowType)):
        return _resource(ty)
    raise TypeError(f"the contract has no type {type(ty).__name__}")


def _maybe(ty: Any) -> Codec | None:
    return None if ty is None else compile_type(ty)


class Signature:
    """The types of a function, compiled."""

    __slots__ = ("names", "parameters", "result")

    def __init__(self, names: list[str], parameters: list[Codec], result: Codec | None) -> None:
        self.names = names
        self.parameters = parameters
        self.result = result

    @classmethod
    def of(cls, ty: c.FuncType) -> Signature:
        """Compiles the types of a function's type."""
        names = [name for name, _ in ty.params]
        return cls(names, [compile_type(parameter) for _, parameter in ty.params], _maybe(ty.result))


def call(func: c.Func, signature: Signature, store: Store, arguments: tuple[Any, ...]) -> Any:
    """Calls a function of the component. Raises `WasmtimeError` if it trapped.

    An argument that is none of its type is an `InvalidArgumentError` that names it, and the function is not called.
    """
    return call_raw(func._func, signature, store._context(), arguments, store)


def call_raw(
    func: Any, signature: Signature, context: Any, arguments: tuple[Any, ...], store: Store | None = None
) -> Any:
    """The same, of what the C library calls a function and a store. Without `store`, resources cannot be given."""
    count = len(signature.parameters)
    if count != len(arguments):
        raise TypeError(f"expected {count} arguments, not {len(arguments)}")
    # All zero: each is a valid value from the start.
    raw = (_Value * count)()
    result = _Value()
    try:
        for index, parameter in enumerate(signature.parameters):
            try:
                parameter.lower(store, arguments[index], raw[index])  # type: ignore[arg-type]
            except InvalidArgumentError as error:
                raise _within(signature.names[index], error) from None
        codec = signature.result
        failed = ffi.wasmtime_component_func_call(
            ctypes.byref(func),
            context,
            raw,
            count,
            None if codec is None else ctypes.byref(result),
            0 if codec is None else 1,
        )
        if failed:
            raise WasmtimeError._from_ptr(failed)
        return None if codec is None else codec.lift(result)
    finally:
        _delete(ctypes.byref(result))
        for value in raw:
            _delete(ctypes.byref(value))
