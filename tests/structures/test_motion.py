"""Atoms that a file fixes, and velocities of files, against ASE, ParmEd's conventions and numbers written by hand."""

import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixCartesian, FixScaled

from mace_md import cli
from mace_md.config import RunConfig
from mace_md.errors import InputError, UsageError
from mace_md.md.assembly import _held
from mace_md.structures.prepare import prepare
from mace_md.structures.structure import read_structure


def slab(constraint):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.set_constraint(constraint)
    return atoms


@pytest.mark.parametrize("name", ["slab.vasp", "slab.extxyz"])
def test_atoms_that_a_file_fixes(tmp_path, name):
    ase.io.write(tmp_path / name, slab(FixAtoms([1, 5])))
    structure = read_structure(tmp_path / name)
    assert np.flatnonzero(structure.fixed.all(axis=1)).tolist() == [1, 5]
    assert structure.fixed.sum() == 6
    held, why = _held(RunConfig(structure=tmp_path / name), structure)
    assert held.tolist() == [1, 5] and "--freeze none" in why
    assert _held(RunConfig(structure=tmp_path / name, freeze="none"), structure)[0].size == 0
    assert _held(RunConfig(structure=tmp_path / name, freeze="index 0"), structure)[0].tolist() == [0]


def test_copies_of_a_fixed_atom_are_fixed(tmp_path):
    ase.io.write(tmp_path / "slab.vasp", slab(FixAtoms([1])))
    structure = prepare(RunConfig(structure=tmp_path / "slab.vasp", supercell=(2, 1, 1), seed=1))
    assert np.flatnonzero(structure.fixed.all(axis=1)).tolist() == [1, 9]


@pytest.mark.parametrize(
    ("name", "constraint"),
    [("part.extxyz", FixCartesian(2, mask=(True, False, False))), ("part.vasp", FixScaled(2, mask=(1, 0, 0)))],
)
def test_half_an_atom_cannot_be_held(tmp_path, name, constraint):
    ase.io.write(tmp_path / name, slab(constraint))
    structure = read_structure(tmp_path / name)
    with pytest.raises(InputError, match=r"atom 3 .* fixed in some directions.*--freeze none"):
        _held(RunConfig(structure=tmp_path / name), structure)
    assert _held(RunConfig(structure=tmp_path / name, freeze="none"), structure)[0].size == 0


def test_freeze_file_needs_a_file_that_fixes(tmp_path):
    ase.io.write(tmp_path / "free.xyz", molecule("H2O"))
    with pytest.raises(InputError, match="fixes no atoms"):
        _held(RunConfig(structure=tmp_path / "free.xyz", freeze="file"), read_structure(tmp_path / "free.xyz"))


def moving(atoms):
    atoms.set_velocities(0.02 * np.random.default_rng(4).normal(size=(len(atoms), 3)))
    return atoms


def in_nm_per_ps(atoms):
    """ASE: A per its unit of time; fs is 1/98.2 of that, and 1 A/fs is 100 nm/ps."""
    return atoms.get_velocities() * ase.units.fs * 100


@pytest.mark.parametrize(("name", "digits"), [("v.extxyz", 5e-6), ("v.vasp", 1e-6), ("v.gro", 6e-5)])
def test_velocities_of_files_are_those_that_ase_wrote(tmp_path, name, digits):
    """`digits` nm/ps, half of the last one that each format has."""
    atoms = moving(bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    ase.io.write(tmp_path / name, atoms)
    assert read_structure(tmp_path / name).velocities == pytest.approx(in_nm_per_ps(atoms), abs=digits)


def test_velocities_turn_with_the_cell(tmp_path):
    """A cell whose first vector lies along y is turned; kinetic energy and angles to the cell stay."""
    atoms = moving(bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    atoms.set_cell([[0, 5.64, 0], [-5.64, 0, 0], [0, 0, 5.64]], scale_atoms=True)
    before = in_nm_per_ps(atoms) @ np.asarray(atoms.cell).T
    ase.io.write(tmp_path / "turned.extxyz", atoms)
    structure = read_structure(tmp_path / "turned.extxyz")
    assert structure.velocities @ (10 * structure.box.T) == pytest.approx(before, abs=1e-4)


def test_column_without_a_unit_is_not_believed(tmp_path):
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [4, 0, 0]])
    atoms.set_array("velocities", np.ones((2, 3)))
    ase.io.write(tmp_path / "v.extxyz", atoms)
    structure = read_structure(tmp_path / "v.extxyz")
    assert structure.velocities is None
    assert any("unit of its velocities" in note for note in structure.notes)


def test_gro_velocities_by_hand(tmp_path):
    lines = ["two", "    2", "    1Ar     Ar    1   0.000   0.000   0.000  0.1000 -0.2000  0.3000"]
    lines += ["    2Ar     Ar    2   0.400   0.000   0.000  0.0000  0.0000 -0.1000", "   3.0   3.0   3.0", ""]
    (tmp_path / "two.gro").write_text("\n".join(lines))
    wanted = np.array([[0.1, -0.2, 0.3], [0.0, 0.0, -0.1]])
    assert read_structure(tmp_path / "two.gro").velocities == pytest.approx(wanted, abs=1e-12)


def test_velocities_of_a_file_go_on_in_a_run(tmp_path, capsys):
    """At constant energy, in the first row: the kinetic energy of the file, less that of the centre of mass."""
    atoms = moving(molecule("CH3CH2OH"))
    ase.io.write(tmp_path / "ethanol.extxyz", atoms)
    folder = tmp_path / "out"
    words = ["run", str(tmp_path / "ethanol.extxyz"), "--ensemble", "nve", "--steps", "2", "--report-interval", "1"]
    words += ["--output", str(folder), "--timestep", "0.1", "--threads", "1"]
    assert cli.main([*words, "--velocities", "file", "--no-minimize"]) == 0
    assert "velocities: of the file" in capsys.readouterr().out
    from ase.md.velocitydistribution import Stationary, ZeroRotation

    Stationary(atoms, preserve_temperature=False)
    ZeroRotation(atoms, preserve_temperature=False)
    wanted = atoms.get_kinetic_energy() * 96.48533  # kJ/mol
    header, first, *_ = (line.split(",") for line in (folder / "log.csv").read_text().splitlines())
    # leapfrog takes velocities for half a step (0.05 fs) later: forces of 0.8 eV/A do 0.1 kJ/mol of work in that time
    assert float(first[header.index("kinetic_kJ_mol")]) == pytest.approx(wanted, abs=0.1)


def test_what_does_not_go_with_velocities_of_a_file(tmp_path):
    with pytest.raises(UsageError, match="--no-minimize"):
        RunConfig(structure=tmp_path / "a.xyz", velocities="file")
    with pytest.raises(UsageError, match="not of beads"):
        RunConfig(structure=tmp_path / "a.xyz", velocities="file", minimize=False, beads=4)
