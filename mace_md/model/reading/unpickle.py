"""Reads the pickle inside a torch `.model` file as plain data, without running anything in it.

A pickle is a small program for a stack machine: it may name any function of any module and call it, so that Python's
own unpickler runs whatever the author of a file wished. Here the program is interpreted by a machine that has no calls.
A global is only a name (`Global`); "calling" a class, or filling an object, makes a `Record` that holds the name and
the data; a tensor becomes a `TensorRecord` that says which bytes of the archive it is made of. Names outside of what a
MACE model is made of (mace, e3nn, torch.nn) are refused. Nothing is imported, called or set on behalf of the file.
"""

from __future__ import annotations

import pickletools
import struct
from dataclasses import dataclass, field
from typing import Any

DTYPES = {  # torch storage class -> (name of the torch dtype, bytes of an element)
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}

# Modules whose classes become records. The trailing dot keeps `mace_evil` and `e3nn_evil` out.
_RECORD_PREFIXES = (
    *("mace.modules.", "mace.tools.", "e3nn.", "torch.nn.modules.", "torch.nn.parameter.", "torch.fx."),
    *("les.", "graph_longrange.", "mace.calculators.lammps_mliap_mace."),
)
_CONVERT = (
    "Convert it to e3nn with mace-torch: mace.cli.convert_cueq_e3nn.run(file, output_file=...), or "
    "mace.cli.convert_oeq_e3nn for OpenEquivariance"
)
# Modules that the pickles of other forms of a model name: what to do about each.
_EXPLAINED = {
    "cuequivariance": f"its weights are laid out for an accelerator (cuEquivariance). {_CONVERT}.",
    "openequivariance": f"its weights are laid out for an accelerator (OpenEquivariance). {_CONVERT}.",
    "mace.modules.lora.": "it has LoRA adapters that are not merged. Merge them with mace-torch, "
    "mace.modules.lora.merge_lora_weights(model), and save the model again.",
    "torch.nn.parallel.": "it is wrapped for several GPUs (DataParallel). Save its attribute `module`, the model.",
}
# Functions that models hold as their activations: kept as names, never called.
_FUNCTION_PREFIXES = ("torch.nn.functional.", "torch._C._VariableFunctionsClass", "torch._C._nn.")
_ALLOWED = {
    "collections.OrderedDict",
    "builtins.set",
    "builtins.frozenset",
    "builtins.slice",
    "builtins.getattr",  # only for the activations of torch, see _reduce
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._C._VariableFunctionsClass",
    *(f"torch.{name}" for name in DTYPES),
    *(f"torch.{name}" for name, _ in DTYPES.values()),
    *(f"torch.{name}" for name in ("tanh", "abs", "sigmoid")),
}
_RENAMED = {"__builtin__.": "builtins.", "copy_reg.": "copyreg.", "numpy._core.": "numpy.core."}


@dataclass(frozen=True)
class Global:
    """The name of a class or function that the file refers to. Only a name: nothing is imported."""

    name: str

    @property
    def is_record(self) -> bool:
        """Whether it names a class, whose objects become records."""
        return self.name.startswith(_RECORD_PREFIXES)


@dataclass(eq=False)
class Record:
    """An object of the file as data: the name of its class, what it was made from, and its attributes."""

    name: str
    args: tuple = ()
    state: dict = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The name of the class without its module."""
        return self.name.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the archive: entry `data/<key>`."""

    dtype: str
    itemsize: int
    key: str
    numel: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as a strided view of a storage; bounds are checked when it is made."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Name of the torch dtype, for example "float64"."""
        return self.storage.dtype

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(type(n) is not int or n < 0 for n in numbers):
            raise Refused(f"a tensor of shape {brief(self.size)} with strides {brief(self.stride)}")
        count, last = 1, self.offset
        for n, step in zip(self.size, self.stride, strict=True):
            count *= n
            last += (n - 1) * step
        if count and (last >= self.storage.numel or count > self.storage.numel):
            raise Refused(f"a tensor of shape {brief(self.size)} in a storage of {self.storage.numel} numbers")


class Refused(Exception):
    """What the file asks for is not done; the text names it. Becomes an InputError with the name of the file."""


def interpret(program: bytes) -> Any:
    """What the pickle `program` describes, as records, dicts, lists and numbers; raises Refused."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(program):
            machine.step(opcode.name, argument)
        if len(machine.stack) != 1 or machine.marks:
            raise Refused("its object tree is damaged (values are left over). Download or copy it again.")
        return machine.stack[0]
    except Refused:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error) as error:
        raise Refused(f"its object tree is damaged ({type(error).__name__}: {error}). Get the file again.") from None


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_LITERALS = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING")
    + ("SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
    + ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
)
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))


class _Machine:
    """The stack machine. `marks` are stacks put aside by MARK, as in Python's pickle.py."""

    def __init__(self) -> None:
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do one instruction of the pickle."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _NEW_CONTAINERS:
            self.stack.append(_NEW_CONTAINERS[name]())
        elif name not in _IGNORED:
            method = getattr(self, f"do_{name.lower()}", None)
            if method is None:
                raise Refused(f"its pickle uses the instruction {name}, which no torch file needs; nothing was run.")
            method(argument)

    def _items(self) -> list:
        """What was pushed since the last MARK."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    # memory of the machine
    def do_mark(self, _) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def do_pop(self, _) -> None:
        self.stack.pop()

    def do_memoize(self, _) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_binput(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def do_binget(self, key: int) -> None:
        self.stack.append(self.memo[key])

    do_put = do_long_binput = do_binput
    do_get = do_long_binget = do_binget

    # containers
    def do_tuple(self, _) -> None:
        items = self._items()
        self.stack.append(tuple(items))

    def do_tuple1(self, _) -> None:
        self._tuple(1)

    def do_tuple2(self, _) -> None:
        self._tuple(2)

    def do_tuple3(self, _) -> None:
        self._tuple(3)

    def _tuple(self, n: int) -> None:
        if len(self.stack) < n:
            raise IndexError("a tuple from an empty stack")
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def do_list(self, _) -> None:
        items = self._items()
        self.stack.append(items)

    def do_dict(self, _) -> None:
        items = self._items()
        self.stack.append({})
        self._set_items(items)

    def do_append(self, _) -> None:
        self._extend([self.stack.pop()])

    def do_appends(self, _) -> None:
        self._extend(self._items())

    def _extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused(f"its pickle appends to {_describe(self.stack[-1])}; nothing was run.")
        self.stack[-1].extend(items)

    def do_setitem(self, _) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def do_setitems(self, _) -> None:
        self._set_items(self._items())

    def _set_items(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise Refused(f"its pickle sets items of {_describe(target)}; nothing was run.")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_plain(key)] = value

    def do_additems(self, _) -> None:
        items = self._items()
        if type(self.stack[-1]) is not set:
            raise Refused(f"its pickle adds to {_describe(self.stack[-1])}; nothing was run.")
        self.stack[-1].update(map(_plain, items))

    def do_frozenset(self, _) -> None:
        self.stack.append(frozenset(map(_plain, self._items())))

    # names, objects, tensors
    def do_global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(_global(module, name))

    def do_stack_global(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_global(module, name))

    def do_inst(self, names: str) -> None:
        module, _, name = names.partition(" ")
        items = self._items()
        self.stack.append(_new(_global(module, name), tuple(items)))

    def do_obj(self, _) -> None:
        cls, *items = self._items()
        self.stack.append(_new(cls, tuple(items)))

    def do_newobj(self, _) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.stack.append(_new(cls, arguments))

    def do_reduce(self, _) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple:
            raise Refused(f"its pickle calls {_describe(function)} with {_describe(arguments)}; nothing was run.")
        self.stack.append(_reduce(function, arguments))

    def do_build(self, _) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Record:
            target.state.update(state if type(state) is dict else {"__state__": state})
        elif type(target) is not dict:  # attributes of an OrderedDict (a state_dict's `_metadata`) are not needed
            raise Refused(f"its pickle sets attributes of {_describe(target)}; nothing was run.")

    def do_binpersid(self, _) -> None:
        self.stack.append(_storage(self.stack.pop()))


def _global(module: Any, name: Any) -> Global:
    """A name, if it is one that models are made of."""
    if type(module) is not str or type(name) is not str:
        raise Refused("its pickle names a global by something that is not text; nothing was run.")
    full = f"{module}.{name}"
    for old, new in _RENAMED.items():
        full = new + full[len(old) :] if full.startswith(old) else full
    for start, reason in _EXPLAINED.items():
        if full.startswith(start):
            raise Refused(f"{reason} Nothing was run.")
    dotted = not name.isidentifier() or not all(part.isidentifier() for part in module.split("."))
    if dotted or not (full in _ALLOWED or full.startswith(_RECORD_PREFIXES + _FUNCTION_PREFIXES)):
        raise Refused(
            f"its pickle asks for {brief(full)}, which is no part of a MACE model that can be read here; "
            "nothing was run."
        )
    return Global(full)


def _new(cls: Any, arguments: Any) -> Record:
    if type(cls) is not Global or not cls.is_record or type(arguments) is not tuple:
        raise Refused(f"its pickle makes an object of {_describe(cls)}; nothing was run.")
    return Record(cls.name, arguments)


def _reduce(function: Any, arguments: tuple) -> Any:
    """The value of a call, for the few functions that models need; their work is done here, by code of ours."""
    if type(function) is not Global:
        raise Refused(f"its pickle calls {_describe(function)}; nothing was run.")
    name = function.name
    if name == "collections.OrderedDict":
        return {_plain(key): value for key, value in (arguments[0] if arguments else ())}
    if name in ("builtins.set", "builtins.frozenset"):
        return {_plain(item) for item in (arguments[0] if arguments else ())}
    if name == "builtins.slice":
        return slice(*map(_plain, arguments))
    if name == "_codecs.encode":  # how protocol 2 writes bytes
        return _as_latin1(*arguments)
    if name == "builtins.getattr":
        return _activation(*arguments)
    if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        storage, offset, size, stride = arguments[:4]
        return TensorRecord(_is(storage, Storage), offset, tuple(size), tuple(stride))
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return _is(arguments[0], TensorRecord)
    if name == "torch.Size":
        return tuple(arguments[0])
    if function.is_record or name.startswith("numpy.") or name == "torch.device":
        return Record(name, arguments)
    raise Refused(f"its pickle calls {name!r}; nothing was run.")


def _activation(owner: Any, name: Any) -> Global:
    """torch.tanh and the like, which torch pickles as getattr(torch._C._VariableFunctionsClass, "tanh")."""
    if owner != Global("torch._C._VariableFunctionsClass"):
        raise Refused(f"its pickle asks for the attribute {brief(name)} of {_describe(owner)}; nothing was run.")
    return _global("torch", name)


def _storage(identity: Any) -> Storage:
    """The storage that a persistent id ("storage", type, key, device, number of elements) stands for."""
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        raise Refused(f"its pickle refers to {_describe(identity)} outside of itself; nothing was run.")
    _, kind, key, _, numel = identity
    name = kind.name.removeprefix("torch.") if type(kind) is Global else ""
    if name not in DTYPES or type(key) is not str or not key.isalnum() or type(numel) is not int or numel < 0:
        raise Refused(f"its pickle refers to a storage {brief(key)} of type {_describe(kind)}, which is unknown here.")
    dtype, itemsize = DTYPES[name]
    return Storage(dtype, itemsize, key, numel)


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Refused(f"its pickle uses {_describe(value)} where a tensor belongs; nothing was run.")
    return value


def _as_latin1(text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused(f"its pickle encodes text as {brief(encoding)}; nothing was run.")
    return text.encode("latin1")


def _plain(value: Any) -> Any:
    """`value`, if it can be a key: hashing nested tuples of a hostile file could take for ever."""
    if value is not None and type(value) not in (str, int, float, bool, bytes, Global):
        raise Refused(f"its pickle uses {_describe(value)} as a key; nothing was run.")
    return value


def brief(value: Any) -> str:
    """A value of the file for a message: never long, and never all of a tree, which can hold itself 2^40 times."""
    if type(value) is int and value.bit_length() > 200:
        return "a number of many digits"
    if value is None or type(value) in (str, int, float, bool, bytes):
        return repr(value[:80] if type(value) in (str, bytes) else value)
    if type(value) in (tuple, list):
        parts = [brief(item) if type(item) not in (tuple, list) else "..." for item in value[:8]]
        return f"({', '.join(parts)}{', ...' if len(value) > 8 else ''})"
    return _describe(value)


def _describe(value: Any) -> str:
    if type(value) in (Global, Record):
        return repr(value.name[:200])
    return f"a {type(value).__name__}"
