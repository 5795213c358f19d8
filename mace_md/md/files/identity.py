"""What makes a run the same run: its options, the files it was read from, and the system that came of them.

Options say it where they are declared (`on_restart`). Files are known by their content. The system is compared as it
was put together: what an included file, another version of a library, or a repaired residue changes shows there.
"""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from openmm import app

from mace_md.config import RunConfig
from mace_md.md.dynamics.stages import identity_of
from mace_md.options.declare import fixed_options, is_table, options_of
from mace_md.provenance import sha256_of
from mace_md.structures.formats.reader import split_frame
from mace_md.structures.structure import Structure

MOST_NAMED = 3  # atoms in a message
SAME_POSITION = 5e-3  # nm; building hydrogens and conformers differs in rounding from machine to machine
SAME_NUMBER = 1e-6  # relative, of masses and boxes


@dataclass(frozen=True)
class System:
    """The atoms of a run as it begins.

    numbers [n_atoms] atomic numbers; masses [n_atoms] Da, 0 for atoms that do not move; bonds [n_bonds, 2] indices, the
    smaller one first, sorted; positions [n_atoms, 3] nm; box [3, 3] nm, of zeros where there is none; charge of the
    whole, e, of the options or a file.
    """

    numbers: np.ndarray
    masses: np.ndarray
    bonds: np.ndarray
    positions: np.ndarray
    box: np.ndarray
    charge: int
    names: tuple[str, ...] = field(default=(), compare=False)  # for messages

    @classmethod
    def of(cls, structure: Structure, masses: np.ndarray, charge: int | None) -> "System":
        """The system of a run. charge : of the options, where they say one."""
        bonds = sorted({tuple(sorted((one.index, two.index))) for one, two in structure.topology.bonds()})
        names = (f"atom {atom.index + 1} ({atom.name} of {atom.residue.name} {atom.residue.id})"
                 for atom in structure.topology.atoms())  # fmt: skip
        return cls(
            np.array(structure.atomic_numbers, dtype=np.uint8),
            np.array(masses, dtype=np.float64),
            np.array(bonds, dtype=np.int32).reshape(-1, 2),
            np.array(structure.positions, dtype=np.float32),
            np.zeros((3, 3)) if structure.box is None else np.array(structure.box, dtype=np.float64),
            int((structure.charge if charge is None else charge) or 0),
            tuple(names),
        )

    def as_bytes(self) -> bytes:
        """For a checkpoint."""
        content = io.BytesIO()
        np.savez_compressed(
            content, numbers=self.numbers, masses=self.masses, bonds=self.bonds, positions=self.positions, box=self.box,
            charge=self.charge,
        )  # fmt: skip
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "System":
        """Of a checkpoint. Raises ValueError for what is none."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as found:
                arrays = {name: found[name] for name in ("numbers", "masses", "bonds", "positions", "box")}
                return cls(**arrays, charge=int(found["charge"]))
        except (KeyError, BadZipFile, EOFError, TypeError, OSError) as error:
            raise ValueError(f"its system cannot be read ({error})") from None

    def changes_to(self, now: "System") -> list[str]:
        """What another system has that this one has not, in words; nothing where they are the same."""
        if len(now.numbers) != len(self.numbers):
            return [f"the system had {len(self.numbers)} atoms, has {len(now.numbers)}"]
        found = []
        other = np.flatnonzero(self.numbers != now.numbers)
        found += _named(other, now, lambda i: f"was {_symbol(self.numbers[i])}, is {_symbol(now.numbers[i])}")
        if not len(other):
            other = np.flatnonzero(~np.isclose(self.masses, now.masses, rtol=SAME_NUMBER, atol=0))
            found += _named(other, now, lambda i: f"had a mass of {self.masses[i]:g} Da, has {now.masses[i]:g}")
        found += _bond_changes(self.bonds, now)
        if self.charge != now.charge:
            found.append(f"the total charge was {self.charge} e, is {now.charge}")
        if not np.allclose(self.box, now.box, rtol=SAME_NUMBER, atol=1e-9):
            found.append(f"the box was {_box_text(self.box)}, is {_box_text(now.box)}")
        moved = np.linalg.norm(self.positions - now.positions, axis=1)
        if (moved > SAME_POSITION).any():
            worst = int(moved.argmax())
            found.append(f"the start had {now.names[worst]} elsewhere, by {10 * moved[worst]:.3g} A")
        return found


@dataclass(frozen=True)
class Identity:
    """What a checkpoint remembers, and what a continued run is compared with. options: by name, as JSON holds them."""

    options: dict[str, object]
    system: System | None = None

    @property
    def seed(self) -> int:
        return int(self.options["seed"])


def identity_of_run(config: RunConfig, system: System, files: Iterable[Path], model: str, more: dict) -> Identity:
    """The identity of a run. files : all that its structure was read from. model : the path of its file."""
    named, included = _split(list(files))
    options: dict[str, object] = {
        "structure (sha256)": " ".join(map(sha256_of, named)),
        "frame": None if config.structure is None else split_frame(config.structure)[1],
        "model (sha256)": sha256_of(model),
    }
    for path in sorted(included, key=lambda path: path.name):
        key = f"{path.name} (sha256)"
        options[key] = " ".join(filter(None, (options.get(key), sha256_of(path))))
    return Identity(options | fixed_values(config) | more, system)


def fixed_values(config: RunConfig) -> dict[str, object]:
    """The options that may not change, by name, tables key by key."""
    tables = {entry.name for entry, kind, _ in options_of(type(config)) if is_table(kind)}
    found: dict[str, object] = {}
    for name in fixed_options(type(config)):
        value = getattr(config, name)
        if name not in tables:
            found[name] = str(value) if isinstance(value, Path) else value
            continue
        if name == "stage":
            found |= identity_of(value)
            continue
        for number, table in enumerate(value, start=1):
            fixed = fixed_options(type(table))
            found |= {f"[[{name}]] {number}: {key}": one for key, one in asdict(table).items() if key in fixed}
    if config.temperature_from is not None or config.pressure_from is not None:
        found["steps (of a ramp)"] = config.num_steps
    return found


def _split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Those that options name, a structure and its coordinates; and those that these include."""
    return files[:2], files[2:]


def _named(atoms: np.ndarray, system: System, words) -> list[str]:
    found = [f"{system.names[i]} {words(i)}" for i in atoms[:MOST_NAMED].tolist()]
    return found + [f"{len(atoms) - MOST_NAMED} more atoms as well"] * (len(atoms) > MOST_NAMED)


def _bond_changes(before: np.ndarray, now: System) -> list[str]:
    was, are = (set(map(tuple, bonds.tolist())) for bonds in (before, now.bonds))
    found = []
    for text, pairs in (("are bonded no more", sorted(was - are)), ("are bonded now", sorted(are - was))):
        if pairs:
            one, two = (now.names[i] for i in pairs[0])
            more = f", and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
            found.append(f"{one} and {two}{more} {text}")
    return found


def _symbol(number: int) -> str:
    return app.Element.getByAtomicNumber(int(number)).symbol


def _box_text(box: np.ndarray) -> str:
    if not box.any():
        return "none"
    return " x ".join(f"{10 * length:.4f}" for length in np.linalg.norm(box, axis=1)) + " A"
