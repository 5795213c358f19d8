"""What makes a run the same run: which options may change at a restart, and the system as it was put together."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mace_md.cli import main
from mace_md.config import RunConfig
from mace_md.config.tables import ExternalForce, Restraint, Stage
from mace_md.errors import UsageError
from mace_md.md.files.identity import System, fixed_values
from mace_md.options.declare import Ramp, is_table, options_of
from mace_md.structures.structure import read_structure

# Length, speed, hardware, what is watched, and names of files, whose content is compared. An option that is not here is
# part of what a run is; a new one that may change has to be put here, and marked where it is declared.
MAY_CHANGE = set(
    """
    structure model coordinates include steps time seeds temperatures processes platform precision device_index
    deterministic cuda_graphs threads kernels tensor_cores backend skin check check_force_limit check_energy_limit
    safety_interval max_force max_temperature closest_contact bond_break small_box committee committee_limit
    extrapolation_limit on_uncertain output restart max_hours checkpoint_interval trust_pickle config quiet debug
    """.split()
)
START = {"structure": Path("a.pdb"), "output": Path("out")}
BASES = [
    START, START | {"ensemble": "npt", "barostat": "membrane"}, START | {"solvate": 5.0}, START | {"beads": 2},
    START | {"hydrogens": "add"}, START | {"dispersion": "d3bj"}, START | {"kernels": "native"},
    START | {"minimize": False}, START | {"trajectory_format": ("extxyz",)}, {"smiles": "O", "output": Path("out")},
    START | {"restraint": (Restraint(kind="position", atoms=("all",)),)},
]  # fmt: skip
TABLES = {
    Restraint: Restraint(kind="position", atoms=("name O",)), ExternalForce: ExternalForce(expression="z"),
    Stage: Stage(name="heat", temperature=Ramp(1.0, 300.0), time=1.0),
}  # fmt: skip


def others(entry, kind, many, value):
    """Values of an option that differ from `value`; not all of them go with the other options."""
    if is_table(kind):
        return [(TABLES[kind],)]
    if kind is bool:
        return [not value]
    if "choices" in entry.metadata:
        found = [choice for choice in entry.metadata["choices"] if choice != value]
    elif kind in (int, float):
        now = value if isinstance(value, (int, float)) else 0
        found = [kind(now + 1), kind(now + 2), kind(1)]
    else:
        found = [kind("other"), kind("b.pdb")]
    if not many:
        return found
    counts = entry.metadata.get("count", (1, 2))
    return [(one,) * count for one in found for count in counts] + [tuple(found[:2])]


def changed(name):
    """(a configuration, the same with another value of one option), where the other options allow both."""
    entry, kind, many = next(found for found in options_of(RunConfig) if found[0].name == name)
    for base in BASES:
        before = RunConfig(**base)
        for other in others(entry, kind, many, getattr(before, name)):
            values = {key: value for key, value in base.items() if key != entry.metadata.get("instead_of")}
            try:
                after = RunConfig(**(values | {name: other}))
            except UsageError:
                continue
            if getattr(after, name) != getattr(before, name):
                return before, after
    raise AssertionError(f"no other value of {name} goes with any of the configurations")


@pytest.mark.parametrize("name", [entry.name for entry, _, _ in options_of(RunConfig)])
def test_each_option_in_turn(name):
    before, after = changed(name)
    assert (fixed_values(before) == fixed_values(after)) == (name in MAY_CHANGE)


def test_the_name_of_a_restraint_and_the_length_of_the_last_stage_may_change():
    def values(name, steps, strength=1000.0):
        held = Restraint(kind="position", atoms=("all",), name=name, k=strength)
        stages = (Stage(name="heat", steps=10), Stage(name="hold", steps=steps))
        return fixed_values(RunConfig(**START, restraint=(held,), stage=stages))

    assert values("one", 10) == values("two", 20)
    assert values("one", 10) != values("one", 10, strength=900.0)


def test_the_length_of_a_ramp_is_part_of_the_run():
    ramp = START | {"temperature_from": 50.0}
    assert fixed_values(RunConfig(**ramp, steps=10)) != fixed_values(RunConfig(**ramp, steps=20))


# ------------------------------------------------------------------------------------------------ the system


@pytest.fixture(scope="module")
def box(repository):
    return read_structure(repository / "systems/water/water.pdb")


def test_a_system_is_itself_after_writing(box):
    system = System.of(box, box.masses, None)
    assert System.from_bytes(system.as_bytes()).changes_to(system) == []
    with pytest.raises(ValueError, match="cannot be read"):
        System.from_bytes(system.as_bytes()[:300])


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("numbers", lambda a: np.where(np.arange(len(a)) == 3, 16, a), "atom 4 .* was O, is S"),
        (
            "masses",
            lambda a: np.where(np.arange(len(a)) == 1, 2.014, a),
            r"atom 2 .* had a mass of 1.00\d+ Da, has 2.01",
        ),
        ("bonds", lambda a: a[1:], "atom 1 .* and atom 2 .* are bonded no more"),
        ("charge", lambda a: a + 1, "total charge was 0 e, is 1"),
        ("box", lambda a: a * 1.001, "the box was .* A, is .* A"),
        ("positions", lambda a: a + 0.01, "the start had atom .* elsewhere, by 0.173 A"),
    ],
)
def test_what_changed_is_said(box, part, change, words):
    import re

    before = System.of(box, box.masses, None)
    after = dataclasses.replace(before, **{part: change(getattr(before, part))})
    found = System.from_bytes(before.as_bytes()).changes_to(after)
    assert len(found) == 1 and re.search(words, found[0]), found


def test_rounding_of_another_machine_is_no_change(box):
    before = System.of(box, box.masses, None)
    after = dataclasses.replace(
        before, positions=before.positions + np.float32(1e-4), masses=before.masses * (1 + 1e-9)
    )
    assert before.changes_to(after) == []


# ------------------------------------------------------------------------------------------------ on the command line


@pytest.fixture
def salt(tmp_path, repository, tiny_model, capsys, monkeypatch):
    """Salt water as GROMACS has it, of water alone, with the atom types in an included file; `run(...)` runs it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "types.itp").write_text("[ atomtypes ]\nOW 8 15.999 -0.8 A 0.3 0.6\nHW 1 1.008 0.4 A 0.1 0.1\n")
    (tmp_path / "water.top").write_text(
        "[ defaults ]\n1 2 yes 0.5 0.8333\n"
        '#include "types.itp"\n'
        "[ moleculetype ]\nSOL 2\n[ atoms ]\n1 OW 1 SOL OW 1 -0.8 15.999\n2 HW 1 SOL HW1 1 0.4 1.008\n"
        "3 HW 1 SOL HW2 1 0.4 1.008\n[ settles ]\n1 1 0.0957 0.1514\n[ system ]\nwater\n[ molecules ]\nSOL 8\n"
    )  # fmt: skip
    lines, number = ["water", "24"], 0
    for molecule in range(8):
        corner = np.array([molecule & 1, molecule >> 1 & 1, molecule >> 2]) * 0.36 + 0.05
        for name, place in (("OW", (0, 0, 0)), ("HW1", (0.0957, 0, 0)), ("HW2", (-0.024, 0.0927, 0))):
            number += 1
            x, y, z = corner + place
            lines.append(f"{molecule + 1:5d}SOL  {name:>5}{number:5d}{x:8.3f}{y:8.3f}{z:8.3f}")
    (tmp_path / "water.gro").write_text("\n".join([*lines, "   0.72000   0.72000   0.72000"]) + "\n")

    def run(*more):
        capsys.readouterr()
        code = main([
            "run", "water.top", "--coordinates", "water.gro", "--model", str(tiny_model), "--output", "out", "--seed",
            "3", "--no-minimize", "--check", "skip", "--timestep", "0.25", "--threads", "1", "--platform", "Reference",
            "--report-interval", "5", "--closest-contact", "0", "--max-force", "1e6", "--max-temperature", "1e6",
            "--bond-break", "ignore", *more,
        ])  # fmt: skip
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("types.itp", "-0.8 A 0.3", "-0.9 A 0.3", "types.itp (sha256) was"),  # a charge
        ("types.itp", "HW 1 1.008", "HW 1 2.014", "types.itp (sha256) was"),
        ("water.top", "HW2 1 0.4 1.008", "HW2 1 0.5 1.008", "structure (sha256) was"),
        ("water.gro", "0.72000", "0.73000", "the box was 7.2000"),
    ],
    ids=["charge", "mass-of-a-type", "charge-of-an-atom", "box"],
)
def test_an_edited_file_is_refused_with_what_changed(salt, tmp_path, file, old, new, words):
    code, err = salt("--steps", "10")
    assert code == 0, err
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    content = (tmp_path / file).read_text()
    assert old in content
    (tmp_path / file).write_text(content.replace(old, new))
    code, err = salt("--steps", "20", "--restart")
    assert code == 1 and words in err, err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / file).write_text(content)
    assert salt("--steps", "20", "--restart")[0] == 0


def test_an_element_that_an_included_file_changes_is_named(salt, tmp_path):
    assert salt("--steps", "10")[0] == 0
    for name in ("types.itp", "water.top"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("OW 8 15.999", "OW 7 14.007").replace("-0.8 15.999", "-0.8 14.007"))
    code, err = salt("--steps", "20", "--restart")
    assert code == 1 and "was O, is N" in err, err
