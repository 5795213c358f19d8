"""The readers of every format that the package parses itself, each as a function of bytes, and good inputs for them.

A reader may return, or raise InputError (a UsageError is one). Anything else is a defect: another exception, a dead
process, more than `SLOW` seconds, or memory without bound.
"""

import io
import json
import random
import resource
import signal
import struct
import tarfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mutations import mutated_bytes, mutated_json, random_pickle

from mace_md.errors import InputError

TESTS = Path(__file__).parent.parent
SLOW = 10  # s; the slowest good input takes about one on a busy machine
Make = Callable[[random.Random], bytes]


@dataclass
class Target:
    """A reader, what makes its inputs, and how many of them belong to a thorough run."""

    read: Callable[[bytes], object]
    make: Make
    count: int


@dataclass
class Outcome:
    """What became of a number of inputs."""

    inputs: int = 0
    classes: Counter = field(default_factory=Counter)
    defects: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    memory_mb: float = 0.0  # grown by


def run(target: Target, seed: int, count: int, first: int = 0) -> Outcome:
    """Read `count` inputs; input number n depends on `seed` and n only."""
    outcome = Outcome()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    for number in range(first, first + count):
        content = target.make(random.Random(f"{seed}-{number}"))
        begin = time.perf_counter()
        name, error = _outcome_of(target.read, content)
        seconds = time.perf_counter() - begin
        outcome.slowest = max(outcome.slowest, seconds)
        outcome.inputs += 1
        outcome.classes[name] += 1
        if error is not None:
            outcome.defects.append({"input": number, "outcome": name, "where": error})
    outcome.seconds = time.perf_counter() - start
    outcome.memory_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return outcome


class _Slow(BaseException):
    pass


def _interrupt(number: int, frame: object) -> None:
    raise _Slow


def _outcome_of(read: Callable[[bytes], object], content: bytes) -> tuple[str, str | None]:
    """Name of what happened, and where when it is a defect."""
    previous = signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(SLOW)
    try:
        read(content)
        return "read", None
    except InputError as error:
        if "\n" in str(error):
            return "message of several lines", str(error)[:300]
        return "refused", None
    except (Exception, _Slow) as error:
        return type(error).__name__, traceback.format_exc(limit=-4)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


# ------------------------------------------------------------------------------------------------ the targets


def targets(folder: Path) -> dict[str, Target]:
    """Every target; `folder` is for the files of those that read files."""
    return {
        "pickle, random programs": Target(_interpret, random_pickle, 60_000),
        "pickle, damaged": Target(_interpret, _damaged_pickle(), 20_000),
        "model archive, damaged": Target(_load(folder / "x.model"), _damaged_archive(), 1_500),
        "model archive, hostile tree": Target(_load(folder / "y.model"), _other_tree(), 1_000),
        "own model, damaged": Target(_load(folder / "x.mace"), _damaged_own(folder), 3_000),
        "own model, other header": Target(_load(folder / "y.mace"), _other_header(folder), 4_000),
        "potential, metadata": Target(_potential(folder / "x.pt"), _other_potential(), 4_000),
        "checkpoint": Target(_checkpoint(folder), _damaged_checkpoint(), 4_000),
        "options file": Target(_options_file(folder / "run.toml"), _damaged_options(), 3_000),
        "structure files": Target(_structure(folder), _damaged_structure(), 1_000),
        "training data, extended XYZ": Target(_training(folder / "x.xyz"), _damaged_extxyz, 600),
        "training data, npz": Target(_training(folder / "x.npz"), _damaged_npz(), 800),
        "training data, HDF5": Target(_training(folder / "x.h5"), _damaged_hdf5(folder), 600),
        "committee listing": Target(_listing(folder / "committee.json"), _other_listing, 1_000),
        "quantities and flags": Target(_flags, _odd_flags, 4_000),
    }


def _interpret(content: bytes) -> object:
    from mace_md.model.reading.unpickle import Refused, interpret

    try:
        return interpret(content)
    except Refused as error:
        raise InputError(str(error)) from None


def _load(path: Path) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        from mace_md.model.reading.checkpoint import load_model

        path.write_bytes(content)
        return load_model(path, head=None)

    return read


def _small_models() -> list[bytes]:
    with tarfile.open(TESTS / "data" / "models.tar.xz") as archive:
        members = {member.name: member for member in archive.getmembers()}
        names = ("one_layer.model", "off_L2.model", "last_readout.model")
        return [archive.extractfile(members[name]).read() for name in names]


def _program_of(model: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(model)) as entries:
        return next(entries.read(name) for name in entries.namelist() if name.endswith("/data.pkl"))


def _damaged_pickle() -> Make:
    import pickle

    import torch

    stream = io.BytesIO()
    torch.save({"a": torch.nn.Linear(2, 3), "b": [torch.zeros(2), (1, 2.5, "x", None)]}, stream)
    value = {"a": (1, 2.5, None, True, "é", b"\x00\xff"), "b": [[1], {2: {3, 4}}], "c": frozenset("ab")}
    good = [_program_of(stream.getvalue()), *(pickle.dumps(value, protocol) for protocol in range(6))]
    return lambda rng: mutated_bytes(rng, rng.choice(good), good)


def _damaged_archive() -> Make:
    models = _small_models()
    return lambda rng: mutated_bytes(rng, rng.choice(models), models)


def _with_program(model: bytes, program: bytes) -> bytes:
    """The torch file with another object tree and right checksums, so that a reader goes on to look inside."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("/data.pkl") else old.read(name))
    return stream.getvalue()


def _other_tree() -> Make:
    models = [(model, _program_of(model)) for model in _small_models()]

    def make(rng: random.Random) -> bytes:
        model, program = rng.choice(models)
        if rng.random() < 0.2:
            return _with_program(model, random_pickle(rng))
        # one number or name: the program stays one, and says something else
        data = bytearray(program)
        for _ in range(rng.choice([1, 1, 2])):
            at = rng.randrange(len(data))
            data[at] = rng.choice([data[at] ^ (1 << rng.randrange(8)), 0, 1, 255, ord("N"), rng.randrange(256)])
        return _with_program(model, bytes(data))

    return make


def _own_model(folder: Path) -> bytes:
    import torch

    from mace_md.model.build import build_model
    from mace_md.model.hyperparameters import ModelConfig
    from mace_md.model.reading.checkpoint import save_model

    config = ModelConfig(
        atomic_numbers=(1, 8), r_max=3.0, num_bessel=3, max_ell=1, num_channels=2, max_L=1, correlation=(2, 2),
        radial_MLP=(4,), MLP_channels=2, avg_num_neighbors=(5.0, 5.0), radial_type="gaussian",
    )  # fmt: skip
    path = save_model(build_model(config, seed=1, dtype=torch.float64), folder / "good.mace", overwrite=True)
    return path.read_bytes()


def _damaged_own(folder: Path) -> Make:
    good = _own_model(folder)
    return lambda rng: mutated_bytes(rng, good)


def _other_header(folder: Path) -> Make:
    good = _own_model(folder)
    length = int.from_bytes(good[:8], "little")
    outer, numbers = json.loads(good[8 : 8 + length]), good[8 + length :]
    inner = json.loads(outer["__metadata__"]["mace_md"])

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.8:
            changed = {"mace_md": json.dumps(mutated_json(rng, inner))}
            header = outer | {"__metadata__": changed}
        else:
            header = mutated_json(rng, outer)
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(text)) + text + numbers

    return make


def _potential(path: Path) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        from mace_md.model.artifact import read_info

        path.write_bytes(content)
        return read_info(path)

    return read


def _other_potential() -> Make:
    import dataclasses

    from mace_md.model.artifact import PotentialInfo

    info = dataclasses.asdict(PotentialInfo((8, 1, 1), None, True, 4.5, 0.5, "float32", "native", -1.0, heads=("a",)))

    def make(rng: random.Random) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as entries:
            entries.writestr("potential/data.pkl", b"\x80\x02N.")
            text = json.dumps(mutated_json(rng, info)).encode("utf-8", "surrogatepass")
            entries.writestr("potential/extra/mace_md.json", mutated_bytes(rng, text) if rng.random() < 0.3 else text)
        content = stream.getvalue()
        return mutated_bytes(rng, content) if rng.random() < 0.3 else content

    return make


def _checkpoint(folder: Path) -> Callable[[bytes], object]:
    place = folder / "run"
    place.mkdir(exist_ok=True)

    def read(content: bytes) -> object:
        from mace_md.md.files.cutting import check_files
        from mace_md.md.files.identity import Identity
        from mace_md.md.files.restart import check_identity, read_checkpoint

        (place / "checkpoint.chk").write_bytes(content)
        checkpoint, _ = read_checkpoint(place)
        check_identity(checkpoint, Identity({"seed": 3}))
        check_files(place, checkpoint.sizes, checkpoint.tails)
        return checkpoint

    return read


def _damaged_checkpoint() -> Make:
    about = {
        "format": 1, "phase": "dynamics", "step": 40, "sizes": {"log.csv": 0}, "identity": {"seed": 3},
        "platform": "Reference", "versions": {"openmm": "8.6"},
    }  # fmt: skip

    def make(rng: random.Random) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as entries:
            changed = mutated_json(rng, about) if rng.random() < 0.7 else about
            entries.writestr("restart.json", json.dumps(changed).encode("utf-8", "surrogatepass"))
            entries.writestr("openmm.chk", rng.randbytes(200))
            entries.writestr("state.xml", '<?xml version="1.0" ?>\n<State/>')
        content = stream.getvalue()
        return mutated_bytes(rng, content) if rng.random() < 0.6 else content

    return make


def _options_file(path: Path) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        from mace_md.config import RunConfig, load_config

        path.write_bytes(content)
        return load_config(RunConfig, ["--config", str(path)])

    return read


def _damaged_options() -> Make:
    from mace_md.config import RunConfig, to_toml

    good = [
        to_toml(RunConfig(structure="water.pdb", model="x.mace", ensemble="npt", box=(10.0, 11.0, 12.0))).encode(),
        b'structure = "a.pdb"\nmodel = "b"\ntime = "1ns"\ntimestep = 0.5\ntrajectory_format = ["dcd", "xtc"]\n',
    ]
    return lambda rng: mutated_bytes(rng, rng.choice(good), good)


def _structure(folder: Path) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        from mace_md.structures.formats.reader import read_contents

        suffix, _, text = content.partition(b"\n")
        path = folder / f"x{suffix.decode()}"
        path.write_bytes(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_contents(path)

    return read


def _damaged_structure() -> Make:
    """The first line is the suffix of the file, which says its format."""
    inputs = TESTS.parent / "systems" / "inputs"
    files = [inputs / name for name in ("enkephalin.pdb", "acetic_acid.extxyz", "urea.cif", "aspirin.sdf")]
    files += [inputs / "carbon_dioxide.vasp", inputs / "caffeine.xyz"]
    good = [(path.suffix.encode(), path.read_bytes()[:6000]) for path in files]

    def make(rng: random.Random) -> bytes:
        suffix, text = rng.choice(good)
        return suffix + b"\n" + mutated_bytes(rng, text, [text])

    return make


def _training(path: Path) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        from mace_md.training.data import read_configurations

        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(read_configurations(path))

    return read


_FRAMES = b"""3
Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:forces:R:3 energy=-3.5 config_type=water pbc="T T T"
O 0 0 0 0.1 0 0
H 0.957 0 0 -0.1 0.2 0
H -0.24 0.927 0 0 -0.2 0
2
Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.25 stress="0 0 0 0 0 0 0 0 0" pbc="F F F"
H 0 0 0 0 0 1.5
H 0 0 0.74 0 0 -1.5
"""


def _damaged_extxyz(rng: random.Random) -> bytes:
    return mutated_bytes(rng, _FRAMES, [_FRAMES])


def _damaged_npz() -> Make:
    import numpy as np

    def make(rng: random.Random) -> bytes:
        arrays = {"nuclear_charges": np.array([8, 1, 1]), "coords": np.ones((4, 3, 3)), "energies": np.zeros(4)}
        arrays["forces"] = np.zeros((4, 3, 3))
        if rng.random() < 0.5:
            odd = [np.zeros(0), np.array("x"), np.array([1.5]), np.zeros((2, 2, 2, 2)), np.array([True]), np.array(3)]
            arrays[rng.choice(list(arrays))] = rng.choice(odd)
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        content = stream.getvalue()
        return mutated_bytes(rng, content) if rng.random() < 0.7 else content

    return make


def _damaged_hdf5(folder: Path) -> Make:
    from mace_md.training.data import read_configurations, write_hdf5

    (folder / "good.xyz").write_bytes(_FRAMES)
    write_hdf5(read_configurations(folder / "good.xyz"), folder / "good.h5", overwrite=True)
    good = (folder / "good.h5").read_bytes()
    return lambda rng: mutated_bytes(rng, good, [good])


def _listing(path: Path) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        from mace_md.md.watch.uncertainty import committee_members

        path.write_bytes(content)
        return committee_members([str(path)])

    return read


def _other_listing(rng: random.Random) -> bytes:
    good = {"format": 1, "members": [{"model": "seed-1/water.mace", "seed": 1}, {"model": "seed-2/water.mace"}]}
    text = json.dumps(mutated_json(rng, good)).encode("utf-8", "surrogatepass")
    return mutated_bytes(rng, text) if rng.random() < 0.3 else text


def _flags(content: bytes) -> object:
    from mace_md.config import RunConfig, load_config

    words = content.decode("utf-8", "surrogateescape").split("\n")
    return load_config(RunConfig, ["a.pdb", "--model", "m", *words])


def _odd_flags(rng: random.Random) -> bytes:
    from mace_md.config import RunConfig
    from mace_md.options.declare import flag, options_of

    names = [flag(entry.name) for entry, _, _ in options_of(RunConfig) if entry.name != "config"]
    values = [
        "300", "300 K", "1ns", "0.1 GPa", "1e400", "-1", "nan", "1,2,3", "yes", "a b", "", "300 bananas", "9" * 400,
        "٣", "1e-400 fs", "0x10", "1_000", "--", "=", "dcd,xtc", "2 fs fs", "1 A", "inf K", "\x00", "1e5 kJ/mol/nm",
    ]  # fmt: skip
    words = []
    for _ in range(rng.randrange(1, 4)):
        value = rng.choice(values)
        if rng.random() < 0.5:
            value = mutated_bytes(rng, value.encode()).decode("utf-8", "surrogateescape").replace("\n", " ")
        name = rng.choice(names)
        words += [f"{name}={value}"] if rng.random() < 0.5 else [name, value]
    return "\n".join(words).encode("utf-8", "surrogateescape")
