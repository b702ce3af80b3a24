"""Fingerprints: the meaning of a value as text, which is equal in another process.

A fingerprint is a dict from paths to text. Two programs with equal fingerprints compute the same
numbers, as far as Python code determines them; if they differ, the paths name the differences:

    fingerprint(nn.Dense(3))         {"": "Dense(3)"}
    fingerprint(optax.adam(1e-2))    {"update/update_fns/1/tx/update/step_size": "-0.01", ...}

Arrays are described by shape, type, and checksum. The user's own code is described by its bytecode,
which comments, docstrings, and positions do not change, with the constants and functions that it
refers to. Code of installed libraries is described by name; their versions are recorded separately.
"""

import dataclasses
import dis
import functools
import hashlib
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core.values import Value
from .explain.text import describe
from .fields import is_traced

CODE = "code of "
# Number of bytes that are hashed at a time, because a mapped file may not fit in memory.
CHUNK = 2**26
# Beyond this number of objects, a value contains data, and the rest is described by its type.
MOST = 20_000

_PACKAGE = Path(__file__).parent
_INSTALLED = ("site-packages", "dist-packages")


def checksum(array: Any) -> str:
    """Return shape, type, and 16 digits of the SHA-256 of an array: `float32[2] 7f51f1b5...`.

    An array on a device is transferred once. An array that is distributed over several processes is
    described by shape and type only.

    Args:
        array: Array of any kind.
    """
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return f"{jax.random.key_impl(array)} {checksum(jax.random.key_data(array))}"
    if is_traced(array) or not getattr(array, "is_fully_addressable", True):
        return describe(array)
    host = np.asarray(array)
    # The type on a device, so that a list, a NumPy array, and a JAX array agree.
    if host.dtype.hasobject:
        return f"{describe(host)} {hashlib.sha256(repr(host.tolist()).encode()).hexdigest()[:16]}"
    dtype = (
        jax.dtypes.canonicalize_dtype(host.dtype) if host.dtype.kind in "?biufcV" else host.dtype
    )
    digest = hashlib.sha256()
    rows = max(CHUNK // max(host[:1].nbytes, 1), 1) if host.ndim else 1
    for begin in range(0, len(host), rows) if host.ndim else [0]:
        part = host[begin : begin + rows] if host.ndim else host
        part = np.ascontiguousarray(part, dtype)
        digest.update(part.view(np.uint8).data if part.size else b"")
    shape = ",".join(map(str, host.shape))
    return f"{dtype}[{shape}] {digest.hexdigest()[:16]}"


def fingerprint(value: Any) -> dict[str, str]:
    """Return the fingerprint of any value: a network, a task, an optimizer, or a function.

    Args:
        value: Any value.

    >>> from functools import partial
    >>> fingerprint(partial(max, 3, key=abs))
    {'': 'builtins.max', 'args/0': '3', 'key': 'builtins.abs'}
    """
    walk = _Walk()
    walk.value(value, "")
    return {**walk.found, **{f"{CODE}{name}": text for name, text in sorted(walk.code.items())}}


def fingerprint_differences(
    recorded: Mapping[str, Any], now: Mapping[str, Any], path: str = ""
) -> list[str]:
    """Return a line for each path at which two nested dicts of text differ.

    Args:
        recorded: Recorded dict.
        now: Present dict.
        path: Path of both. Default: "".

    >>> fingerprint_differences({"batch_size": 8, "key": "a"}, {"batch_size": 16, "key": "a"})
    ['batch_size: recorded 8, now 16']
    """
    lines = []
    for name in {**recorded, **now}:
        where = "/".join(part for part in (path, name) if part)
        a, b = recorded.get(name), now.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += fingerprint_differences(a, b, where)
        elif a != b and name.startswith(CODE):
            kind = "is new" if a is None else "is not used any more" if b is None else "changed"
            lines.append(f"{path}: the {name} {kind}" if path else f"the {name} {kind}")
        elif a != b:
            lines.append(f"{where}: recorded {_excerpt(a, b)}, now {_excerpt(b, a)}")
    return lines


def is_users(file: str | None) -> bool:
    """Return whether a source file is the user's, and not of jaxnn, Python, or a package.

    Args:
        file: Path of the file, or None.

    >>> is_users(__file__), is_users(dis.__file__), is_users(np.__file__)
    (False, False, False)
    """
    if not file or file.startswith("<frozen"):
        return False
    if file.startswith("<"):  # typed in, in a notebook or a console: <stdin>, <ipython-input-...>
        return file != "<string>"  # which is what dataclasses generate
    path = Path(file)
    if any(part in _INSTALLED for part in path.parts):
        return False
    return not any(path.is_relative_to(one) for one in _libraries())


@functools.cache
def _libraries() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib")
    folders = [Path(folder) for name in names if (folder := sysconfig.get_path(name))]
    return (_PACKAGE, *folders, *(one.resolve() for one in folders))


class _Walk:
    """Collects the fingerprint of a value: `found` by path, `code` by name."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.code: dict[str, str] = {}
        self._around: list[int] = []  # ids of the objects around the present one
        self._count = 0
        self._noted = False  # whether the repr of an object around contains the values
        self._coded: dict[int, Any] = {}  # by id; keeping the objects keeps ids unique

    def value(self, value: Any, path: str) -> None:
        """Record `value` at `path`."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self.found[path] = repr(value)
        elif isinstance(value, jax.ShapeDtypeStruct):
            self.found[path] = describe(value)
        elif isinstance(value, np.ndarray | jax.Array):
            self.found[path] = checksum(value)
        elif id(value) in self._around or self._count >= MOST:
            self.found[path] = _name(type(value))
        else:
            self._count += 1
            self._around.append(id(value))
            self._inside(value, path)
            self._around.pop()

    def _inside(self, value: Any, path: str) -> None:
        if isinstance(value, type):
            self.found[path] = _name(value)
            self._class(value)
        elif isinstance(value, Value):
            # Its repr is the code that builds it. Its behavior is the code of its class and of the
            # functions in its fields, whose closures are not in the repr.
            if not self._noted:
                self.found[path] = _plain(repr(value))
            self._class(type(value))
            self._code_in(value)
        elif isinstance(value, Mapping):
            self.found[path] = f"{type(value).__name__} of {len(value)}"
            for name, item in value.items():
                self.value(item, f"{path}/{name}".lstrip("/"))
        elif isinstance(value, tuple | list | set | frozenset):
            self._items(value, path)
        elif isinstance(value, functools.partial):
            self.value(value.func, path)
            self._several({f"args/{i}": item for i, item in enumerate(value.args)}, path)
            self._several(value.keywords, path)
        elif isinstance(value, types.MethodType):
            self.value(value.__func__, path)
            self.value(value.__self__, f"{path}/self".lstrip("/"))
        elif isinstance(value, types.FunctionType):
            self.found[path] = _name(value)
            self._function(value, path)
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType):
            self.found[path] = _name(value)
        elif callable(getattr(value, "__wrapped__", None)):  # jax.jit, functools.lru_cache
            self.value(value.__wrapped__, path)
        else:
            self.found[path] = _name(type(value))
            self._class(type(value))
            held = _held(value)
            self._several(held, path)
            if not held:
                self.found[path] = _plain(repr(value))

    def _items(self, value: Any, path: str) -> None:
        if isinstance(value, set | frozenset):
            value = sorted(value, key=repr)
        names = getattr(value, "_fields", range(len(value)))
        self.found[path] = f"{type(value).__name__} of {len(value)}"
        self._class(type(value))
        self._several(dict(zip(map(str, names), value, strict=True)), path)

    def _several(self, items: Mapping[str, Any], path: str) -> None:
        for name, item in items.items():
            self.value(item, f"{path}/{name}".lstrip("/"))

    def _code_in(self, value: Any) -> None:
        """Record the code below a value whose repr is recorded."""
        below = _Walk()
        below.code, below._coded, below._around = self.code, self._coded, self._around
        below._noted = True
        for field in dataclasses.fields(value):
            below.value(getattr(value, field.name), field.name)

    # Code

    def _function(self, function: types.FunctionType, path: str) -> None:
        """Record what a function closes over, and its code if it is the user's."""
        if is_users(function.__code__.co_filename):
            self._coded_once(function, lambda: self._bytecode(function))
        elif self._noted:
            if function.__closure__:  # jax.nn.initializers.normal(0.02): the number has no repr
                held = [(name, self._constant(item)) for name, item in _enclosed(function)]
                self._coded_once(function, lambda: held)
        else:
            self._several(dict(_enclosed(function)), path)

    def _class(self, kind: type) -> None:
        """Record the code of a class and its bases, if it is the user's."""
        for one in kind.__mro__:
            if one.__module__ == "builtins" or not is_users(_file_of(one)):
                continue
            self._coded_once(one, lambda one=one: self._members(one))

    def _coded_once(self, item: Any, text: Any) -> None:
        if id(item) in self._coded:
            return
        self._coded[id(item)] = item
        name = item.__qualname__
        digest = hashlib.sha256(repr(text()).encode()).hexdigest()[:16]
        # Several lambdas may have one name.
        self.code[name] = f"{self.code[name]} {digest}" if name in self.code else digest

    def _members(self, kind: type) -> list[Any]:
        """Return the members of a class, by name."""
        found: list[Any] = [[_name(base) for base in kind.__bases__]]
        members: dict[str, Any] = dict(sorted(vars(kind).items()))
        for name, item in members.items():
            item = _unwrapped(item)
            if isinstance(item, types.FunctionType) and is_users(item.__code__.co_filename):
                found.append((name, self._bytecode(item)))
            elif name == "__annotations__":
                found.append((name, _plain(str(item))))
            elif not name.startswith("__"):
                found.append((name, self._constant(item)))
        return found

    def _bytecode(self, function: types.FunctionType) -> list[Any]:
        """Return the operations of a function, without files, lines, and documentation."""
        code, refers = function.__code__, function.__globals__
        names = set(_names(code))
        held = {name: self._constant(item) for name, item in _enclosed(function)}
        for name in sorted(names & refers.keys()):
            item = refers[name]
            if isinstance(item, types.ModuleType) and is_users(getattr(item, "__file__", None)):
                inside = sorted(names & vars(item).keys())
                held[name] = [(one, self._constant(vars(item)[one])) for one in inside]
            else:
                held[name] = self._constant(item)
        return [list(_instructions(code)), sorted(held.items())]

    def _constant(self, item: Any) -> Any:
        """Return what code refers to as text; a user's functions and classes are recorded."""
        below = _Walk()
        below.code, below._coded = self.code, self._coded
        below.value(item, "")
        return below.found


def _unwrapped(member: Any) -> Any:
    """Return the function of a member of a class: a method, a property, or a decorated function."""
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    elif isinstance(member, property | functools.cached_property):
        member = getattr(member, "fget", None) or getattr(member, "func", None)
    while callable(getattr(member, "__wrapped__", None)):
        member = member.__wrapped__
    return member


def _instructions(code: types.CodeType) -> Iterator[Any]:
    """Yield the operations of bytecode, with those of the functions inside."""
    for one in dis.get_instructions(code):
        inner = isinstance(one.argval, types.CodeType)
        argument = list(_instructions(one.argval)) if inner else _plain(_ordered(one.argval))
        yield one.opname, argument


def _ordered(item: Any) -> str:
    """Return the repr of a constant, with sets in a fixed order."""
    return repr(sorted(map(repr, item))) if isinstance(item, frozenset) else repr(item)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _names(item)


def _enclosed(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function contains besides its code: closure and defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet: the function is being defined
            continue
    for i, item in enumerate(function.__defaults__ or ()):
        yield f"default {i}", item
    for name, item in (function.__kwdefaults__ or {}).items():
        yield f"default {name}", item


def _held(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, without cached properties."""
    cached = {
        name
        for kind in type(value).__mro__
        for name, item in vars(kind).items()
        if isinstance(item, functools.cached_property)
    }
    held = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                held[name] = getattr(value, name)
    return {name: held[name] for name in sorted(held) if name not in cached}


def _file_of(kind: type) -> str | None:
    module = sys.modules.get(kind.__module__)
    if module is None or kind.__module__ == "__main__":
        # The main module of a notebook or console has no file; its content is the user's.
        return getattr(module, "__file__", None) or "<main>"
    return getattr(module, "__file__", None)


def _name(item: Any) -> str:
    """Return module and name; a main module has another name when it is imported."""
    module = getattr(item, "__module__", None) or ""
    name = getattr(item, "__qualname__", None) or getattr(item, "__name__", None)
    if name is None:
        return _plain(repr(item))
    return f"{module}.{name}" if module and module != "__main__" else str(name)


def _plain(text: str) -> str:
    """Remove memory addresses from a text."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _excerpt(text: Any, other: Any, most: int = 160) -> str:
    """Return a text, or the part of a long text around its first difference from the other."""
    text, other = ("nothing" if one is None else str(one) for one in (text, other))
    if len(text) <= most:
        return text
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    begin = max(min(same - most // 4, len(text) - most), 0)
    end = begin + most
    return f"{'...' * (begin > 0)}{text[begin:end]}{'...' * (end < len(text))}"
