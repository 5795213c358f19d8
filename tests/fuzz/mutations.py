"""Damaged and hostile versions of good inputs (bytes, JSON, pickle programs), all from one seeded generator."""

import copy
import json
import pickle
import random
import struct
from typing import Any

_NUMBERS = [0, 1, -1, 2, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, -(2**70)]
_VALUES: list[Any] = [
    *_NUMBERS, 0.0, -0.0, 1e-320, 1e308, -1e300, float("nan"), float("inf"), True, False, None, "", "\0", "a" * 300,
    "../../x", "nan", "1e999", "\ud800", [], {}, [[]], [None], [0] * 50, {"": 0}, {"a": {"b": []}}, [1, "a", None],
]  # fmt: skip
_WORDS = [
    b"", b"\0", b"\xff" * 8, b"0" * 40, b"9" * 5000, b"-", b"nan", b"inf", b"1e309", b"\n", b"\r", b"=", b'"', b"[",
    b"]", b"{", b"}", b"'''", b"\\u0000", b"\xed\xa0\x80", b"PK\x03\x04", b"%s%n", b"../", struct.pack("<Q", 2**63),
]  # fmt: skip


def mutated_bytes(rng: random.Random, content: bytes, others: list[bytes] = ()) -> bytes:
    """`content` after one to eight small accidents: flipped, lost, doubled, foreign or overwritten bytes, or a cut."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        length = rng.choice([1, 1, 2, 4, 8, rng.randrange(1, 200)])
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + length] = rng.choice(_WORDS)
        elif kind == 4:
            data[at:at] = rng.choice(_WORDS)
        elif kind == 5:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 6 and others:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at : at + length] = other[start : start + length]
        elif kind == 7 and rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def mutated_json(rng: random.Random, value: Any) -> Any:
    """`value` with one to three of its parts replaced, removed, doubled or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice([1, 1, 2, 3])):
        value = _mutated_once(rng, value)
    return value


def _mutated_once(rng: random.Random, value: Any) -> Any:
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.05:
        return _odd(rng, value)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    kind = rng.randrange(8)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, dict):
        value[rng.choice(["x", "", "__class__", str(key).upper()])] = value.pop(key)
    elif kind == 1:
        value.append(copy.deepcopy(value[key]))
    elif kind == 2:
        value[key] = copy.deepcopy(rng.choice(_VALUES))
    else:
        value[key] = _mutated_once(rng, value[key])
    return value


def _odd(rng: random.Random, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice([value + 1, value - 1, -value, value * 1000, float(value), str(value)])
    return copy.deepcopy(rng.choice(_VALUES))


# Names that a hostile file would like to have called, and names that a model file has.
_GLOBALS = [
    ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"),
    ("subprocess", "Popen"), ("torch", "load"), ("torch.jit", "load"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.nn.modules.linear", "Linear"), ("torch", "FloatStorage"), ("torch", "DoubleStorage"), ("torch", "Size"),
    ("collections", "OrderedDict"), ("mace.modules.models", "ScaleShiftMACE"), ("numpy.core.multiarray", "scalar"),
    ("builtins", "set"), ("builtins", "slice"), ("_codecs", "encode"), ("torch._C._VariableFunctionsClass", ""),
    ("mace.modules.models.os", "system"), ("e3nn.o3", "os.system"), ("torch.nn.modules", "__import__"),
]  # fmt: skip


def random_pickle(rng: random.Random) -> bytes:
    """A pickle program: half of them a well-formed tree of what a hostile file might hold, half of them damaged too."""
    program = b"\x80\x02" + _value(rng, rng.randrange(1, 7)) + b"."
    return program if rng.random() < 0.5 else mutated_bytes(rng, program)


def _value(rng: random.Random, depth: int) -> bytes:
    """Instructions that leave one value on the stack."""
    kind = rng.randrange(14) if depth > 0 else rng.randrange(4)
    if kind < 3:
        return pickle.dumps(rng.choice([v for v in _VALUES if v != "\ud800"]), protocol=2)[2:-1]
    if kind == 3:
        return _global(rng)
    if kind == 4:
        return b"(" + _values(rng, depth) + rng.choice([b"t", b"l"])
    if kind == 5:
        pairs = b"".join(_value(rng, 0) + _value(rng, depth - 1) for _ in range(rng.randrange(3)))
        return b"}(" + pairs + b"u"
    if kind == 6:
        return b"](" + _values(rng, depth) + b"e"
    if kind == 7:  # a call, of something that is allowed or not
        return _global(rng) + b"(" + _values(rng, depth) + b"tR"
    if kind == 8:
        return _global(rng) + b"(" + _values(rng, depth) + b"t\x81}(" + _value(rng, 0) + _value(rng, depth - 1) + b"ub"
    if kind == 9:
        return b"(" + _global(rng) + _values(rng, depth) + b"o"
    if kind == 10:  # a tuple of itself twice: its printed form has 2^40 parts
        return _value(rng, depth - 1) + b"q\x01h\x01\x86" * rng.choice([1, 40])
    if kind == 11:
        return _tensor(rng, depth)
    if kind == 12:
        return _value(rng, depth - 1) + b"q\x020h\x02"
    return b"(" + _values(rng, depth) + b"tQ"


def _values(rng: random.Random, depth: int) -> bytes:
    return b"".join(_value(rng, depth - 1) for _ in range(rng.randrange(5)))


def _global(rng: random.Random) -> bytes:
    module, name = rng.choice(_GLOBALS)
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _tensor(rng: random.Random, depth: int) -> bytes:
    """A tensor as torch writes it, with one of its parts replaced now and then."""
    numel = rng.choice([0, 1, 6, 6, 2**31 - 1])
    storage = [
        b"X\x07\0\0\0storage", b"ctorch\nFloatStorage\n", b"X\x01\0\0\x000", b"X\x03\0\0\0cpu",
        b"J" + struct.pack("<i", numel),
    ]  # fmt: skip
    if rng.random() < 0.3:
        storage[rng.randrange(5)] = _value(rng, depth - 1)
    parts = [b"(" + b"".join(storage) + b"tQ", b"K\0", b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"\x89", b"N"]
    if rng.random() < 0.5:
        parts[rng.randrange(6)] = _value(rng, depth - 1)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(parts) + b"tR"
