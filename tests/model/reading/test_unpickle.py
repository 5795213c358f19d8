"""The reader of foreign pickles: it reads what torch writes, refuses everything else, and never runs any of it."""

import contextlib
import io
import os
import pickle
import random
import struct
import zipfile

import pytest
import torch

from mace_md.errors import InputError
from mace_md.model.reading import unpickle
from mace_md.model.reading.archive import read_archive
from mace_md.model.reading.unpickle import Global, Record, TensorRecord, interpret


def torch_file(value) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def zip_file(program: bytes, **more: bytes) -> bytes:
    """A file like torch's, around any program."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as entries:
        entries.writestr("archive/data.pkl", program)
        for name, data in more.items():
            entries.writestr("archive/" + name.replace("__", "/"), data)
    return stream.getvalue()


# --- what torch writes is read back ---


@pytest.mark.parametrize(
    "name", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]
)
def test_tensors_come_back_bit_for_bit(name):
    dtype = getattr(torch, name)
    base = torch.arange(60).reshape(3, 4, 5).to(dtype)
    values = {"all": base, "view": base[1:, ::2, 3], "transposed": base.permute(2, 0, 1), "scalar": base[2, 1, 0]}
    archive = read_archive("x.model", torch_file(values))
    for name, expected in values.items():
        found = archive.tensor(archive.root[name])
        assert found.dtype == dtype and torch.equal(found, expected)


def test_bool_and_empty_tensors():
    archive = read_archive("x.model", torch_file([torch.tensor([True, False, True]), torch.zeros(0, 3)]))
    flags, empty = (archive.tensor(record) for record in archive.root)
    assert flags.tolist() == [True, False, True] and flags.dtype == torch.bool
    assert empty.shape == (0, 3)


def test_a_module_becomes_records():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.SiLU())
    archive = read_archive("x.model", torch_file(module))
    assert (archive.root.name, archive.root.kind) == ("torch.nn.modules.container.Sequential", "Sequential")
    linear = archive.root.state["_modules"]["0"]
    assert linear.state["in_features"] == 2
    assert torch.equal(archive.tensor(linear.state["_parameters"]["weight"]), module[0].weight)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_data_of_every_protocol_comes_back(protocol):
    shared = [1, 2]
    value = {"a": (1, 2.5, None, True, "é", b"\x00\xff"), "b": [shared, shared], "c": {1: {2: (3, 4, 5, 6)}}}
    value["d"] = -(2**70)
    found = interpret(pickle.dumps(value, protocol=protocol))
    assert found == value
    assert found["b"][0] is found["b"][1]  # the memo keeps identity


# --- nothing runs ---


class Trap:
    """Becomes whatever `reduce` says when it is unpickled."""

    def __init__(self, *reduce):
        self.reduce = reduce

    def __reduce__(self):
        return self.reduce


def names(module: str, name: str) -> bytes:
    """STACK_GLOBAL of any module and name."""
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93"


def system_calls(command: str) -> dict[str, bytes]:
    """Programs that run `command` in Python's own unpickler, or try to by a trick."""
    text = b"X" + struct.pack("<I", len(command)) + command.encode()
    system = names("posix", "system")
    state = b"}(X\x0c\x00\x00\x00__setstate__" + system + b"u"
    return {
        "REDUCE": pickle.dumps(Trap(os.system, (command,)), protocol=2),
        "REDUCE, protocol 0": pickle.dumps(Trap(os.system, (command,)), protocol=0),
        "eval": pickle.dumps(Trap(eval, (f"__import__('os').system({command!r})",))),
        "exec": pickle.dumps(Trap(exec, (f"import os; os.system({command!r})",))),
        "INST": b"(S" + repr(command).encode() + b"\nios\nsystem\n.",
        "OBJ": b"(" + system + text + b"o.",
        "NEWOBJ": system + text + b"\x85\x81.",
        "NEWOBJ_EX": system + text + b"\x85}\x92.",
        "STACK_GLOBAL": system + text + b"\x85R.",
        "dotted name": names("os", "path.os.system") + text + b"\x85R.",
        "dotted name in an allowed module": names("mace.modules.blocks", "os.system") + text + b"\x85R.",
        "lookalike module": names("mace_evil", "system") + text + b"\x85R.",
        "name that is no text": names("posi\x00", "system") + text + b"\x85R.",
        "getattr": names("builtins", "getattr") + names("os", "path") + b"\x8c\x02os\x86R.",
        "getattr of torch": names("builtins", "getattr")
        + names("torch._C", "_VariableFunctionsClass")
        + b"\x8c\x04save\x86R"
        + text
        + b"\x85R.",
        "partial": names("functools", "partial") + system + b"\x85R" + text + b"\x85R.",
        "map": names("builtins", "map") + system + text + b"\x85\x86R.",
        "BUILD with __setstate__": names("e3nn.o3", "Irreps") + b")\x81" + state + b"b" + text + b"b.",
        "BUILD of a class": names("e3nn.o3", "Irreps") + state + b"b)\x81" + text + b"b.",
        "a string as function": text + text + b"\x85R.",
        "a record as function": names("e3nn.o3", "Irreps") + b")\x81" + text + b"\x85R.",
        "persistent id": system + text + b"\x85RQ.",
        "class inside a persistent id": b"(\x8c\x07storage" + system + b"\x8c\x010\x8c\x03cpuK\x01tQ.",
        "text persistent id": b"Pposix system\n.",
        "hook of a tensor": names("torch._utils", "_rebuild_tensor_v2") + b"(" + system + b"K\x00))\x89Nt" + b"R.",
        "extension registry": b"\x82\x01.",
        "copyreg": names("copyreg", "_reconstructor") + system + names("builtins", "object") + b"N\x87R.",
        "hidden in a module": torch_program_with(Trap(os.system, (command,))),
    }


def torch_program_with(trap) -> bytes:
    module = torch.nn.Linear(1, 1)
    module.extra = trap
    with zipfile.ZipFile(io.BytesIO(torch_file(module))) as entries:
        return entries.read("archive/data.pkl")


@pytest.mark.parametrize("gadget", sorted(system_calls("")))
def test_gadgets_are_refused_and_run_nothing(gadget, tmp_path):
    witness = tmp_path / "ran"
    program = system_calls(f"touch {witness}")[gadget]
    path = tmp_path / "trap.model"
    path.write_bytes(zip_file(program, data__0=bytes(8)))
    with pytest.raises(InputError) as error:
        read_archive(path, path.read_bytes())
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not witness.exists()


def test_the_gadgets_are_live():
    """The traps above would work: Python's own unpickler reaches the function they name."""
    reached = []

    class Watcher(pickle.Unpickler):
        def find_class(self, module, name):
            reached.append(f"{module}.{name}")
            return lambda *arguments: None

    for gadget in ("REDUCE", "REDUCE, protocol 0", "INST", "OBJ", "STACK_GLOBAL"):
        reached.clear()
        Watcher(io.BytesIO(system_calls("true")[gadget])).load()
        assert reached[-1] in ("posix.system", "os.system"), gadget


def test_the_refused_name_is_said():
    with pytest.raises(InputError, match=r"'posix\.system'.*nothing was run"):
        read_archive("x.model", zip_file(pickle.dumps(Trap(os.system, ("true",)))))
    with pytest.raises(InputError, match=r"'nequip\.nn\.Graph'"):
        read_archive("x.model", zip_file(names("nequip.nn", "Graph") + b")\x81."))


def test_records_are_inert():
    record = interpret(names("mace.modules.models", "MACE") + b")\x81}(X\x01\x00\x00\x00xK\x01ub.")
    assert type(record) is Record and record.state == {"x": 1} and not callable(record)
    assert type(interpret(names("torch.nn.functional", "silu") + b".")) is Global


# --- numbers stay inside the archive ---


@pytest.mark.parametrize("offset, size, stride", [
    (0, (9,), (1,)),
    (5, (4,), (1,)),
    (0, (3, 3), (3, 1)),
    (0, (2,), (8,)),
    (-1, (2,), (1,)),
    (0, (2,), (-1,)),
    (0, (10**9,), (0,)),
    (0, (2, 2), (1,)),
    (0, (1.0,), (1,)),
    (2**70, (1,), (1,)),
])  # fmt: skip
def test_tensors_outside_of_their_storage_are_refused(offset, size, stride):
    storage = unpickle.Storage("float64", 8, "0", 8)
    with pytest.raises(unpickle.Refused):
        TensorRecord(storage, offset, size, stride)


def test_storage_shorter_than_it_claims_is_refused():
    archive = read_archive("x.model", torch_file(torch.zeros(4)))
    claimed = unpickle.Storage("float32", 4, archive.root.storage.key, 1000)
    with pytest.raises(unpickle.Refused, match="16 bytes for 1000 float32"):
        archive.tensor(TensorRecord(claimed, 0, (1000,), (1,)))
    with pytest.raises(unpickle.Refused, match="cannot be read"):
        archive.tensor(TensorRecord(unpickle.Storage("float32", 4, "77", 1), 0, (1,), (1,)))


@pytest.mark.parametrize("key", ["../secret", "0/../../x", "", "a b"])
def test_storage_keys_cannot_leave_the_data_folder(key):
    program = pickle.dumps(None)[:-2] + b"(\x8c\x07storage" + names("torch", "FloatStorage")
    program += b"\x8c" + bytes([len(key)]) + key.encode() + b"\x8c\x03cpuK\x01tQ."
    with pytest.raises(InputError, match="storage"):
        read_archive("x.model", zip_file(program))


# --- what is not a model file ---


def compressed() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as entries:
        entries.writestr("archive/data.pkl", b"\x80\x02N." + bytes(50_000_000))
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), stream)
    return stream.getvalue()


def old_torch() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": 1}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("content, message", [
    (lambda: b"", "empty"),
    (lambda: b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
    (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    (lambda: random.Random(1).randbytes(5000), "not a torch model file"),
    (lambda: torch_file(torch.nn.Linear(3, 3))[:-200], "not a complete model file"),
    (lambda: torch_file(torch.nn.Linear(3, 3))[:60], "not a complete model file"),
    (compressed, "compressed or its sizes are false"),
    (scripted, "TorchScript"),
    (old_torch, "before version 1.6"),
    (lambda: zip_file(b"\x80\x02N.", byteorder=b"big"), "big-endian"),
    (lambda: zip_file(b"\x80\x02]q"), "damaged"),
    (lambda: zip_file(b"\x80\x02NN."), "damaged"),
    (lambda: zip_file(b""), "damaged"),
    (lambda: zip_file(b"h\x05."), "damaged"),
])  # fmt: skip
def test_other_files_get_one_clear_line(content, message):
    with pytest.raises(InputError) as error:
        read_archive("some.model", content())
    assert message in str(error.value) and str(error.value).startswith("some.model: ")
    assert "\n" not in str(error.value)


def test_a_zip_of_something_else_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as entries:
        entries.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="not one of torch"):
        read_archive("x.model", stream.getvalue())


def test_keys_that_take_for_ever_to_hash_are_refused():
    nested = b")" + b"\x85q\x00h\x00\x86" * 60  # pairs of pairs of pairs: 2^60 leaves
    with pytest.raises(InputError, match="as a key"):
        read_archive("x.model", zip_file(b"}" + nested + b"Ns."))


def test_mutated_files_never_escape():
    """Any damage gives a readable tree or an InputError, never another exception and never a call."""
    rng = random.Random(7)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())
    with zipfile.ZipFile(io.BytesIO(torch_file(module))) as entries:
        seeds = [entries.read("archive/data.pkl"), *system_calls("true").values()]
    for _ in range(3000):
        program = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(program))
            program[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
            program = program or bytearray(b".")
        with contextlib.suppress(unpickle.Refused):
            interpret(bytes(program))


def test_mutated_archives_never_escape():
    rng = random.Random(8)
    seed = torch_file({"a": torch.zeros(3, 2), "b": torch.ones(5)})
    for _ in range(600):
        content = bytearray(seed)
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            archive = read_archive("x.model", bytes(content))
        except InputError:
            continue
        for record in archive.root.values() if type(archive.root) is dict else ():
            try:
                values = archive.tensor(record)
            except unpickle.Refused:
                continue
            assert values.numel() <= 6


BOMB = b"K\x01" + b"q\x01h\x01\x86" * 40  # a tuple of itself twice, 40 times: 2^40 numbers if anything prints them
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x06tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
HOSTILE = {
    "shape": TENSOR + b"K\0" + BOMB + b"K\x03K\x01\x86\x89NtR.",
    "offset": TENSOR + BOMB + b"K\x02K\x03\x86K\x03K\x01\x86\x89NtR.",
    "attribute": b"cbuiltins\ngetattr\n" + BOMB + BOMB + b"\x86R.",
    "encoding": b"c_codecs\nencode\nX\x01\0\0\0a" + BOMB + b"\x86R.",
    "storage": b"(X\x07\0\0\0storagectorch\nFloatStorage\n" + BOMB + b"X\x03\0\0\0cpuK\x06tQ.",
    "key": b"}" + BOMB + b"Ns.",
    "set": b"cbuiltins\nset\n" + BOMB + b"\x85R.",
}


@pytest.mark.parametrize("part", HOSTILE)
def test_a_tree_too_large_to_print_is_refused_at_once(part):
    with pytest.raises(unpickle.Refused) as caught:
        interpret(HOSTILE[part])
    assert len(str(caught.value)) < 300
