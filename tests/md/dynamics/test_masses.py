"""Masses: what hydrogen gains its neighbour loses, and frozen atoms are none."""

import json

import numpy as np
import openmm
import pytest
from ase import Atoms
from ase.build import molecule

import mace_md
from mace_md.errors import InputError
from mace_md.md.dynamics.masses import frozen, masses_of, repartition_hydrogen
from mace_md.structures.structure import read_structure


def written(tmp_path, atoms):
    path = tmp_path / "atoms.xyz"
    atoms.write(path)
    return read_structure(path)


@pytest.mark.parametrize("mass", [1.5, 3.0, 4.0])
def test_every_molecule_keeps_its_mass(repository, mass):
    structure = read_structure(repository / "systems/alanine_dipeptide_water/alanine_dipeptide_water.pdb")
    light, heavy = masses_of(structure.topology), repartition_hydrogen(structure.topology, mass)
    hydrogen = np.array(structure.atomic_numbers) == 1
    assert (heavy[hydrogen] == mass).all()
    index = structure.molecules.index
    assert np.bincount(index, heavy) == pytest.approx(np.bincount(index, light), abs=1e-9)
    assert heavy.min() > 1.0
    bonds = np.array([(a.index, b.index) for a, b in structure.topology.bonds()])
    bare = np.setdiff1d(np.flatnonzero(~hydrogen), bonds[hydrogen[bonds].any(axis=1)].ravel())
    assert np.array_equal(heavy[bare], light[bare])  # atoms without hydrogen keep theirs


def test_what_cannot_give_mass_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"C1.*would be left with 0\.04 Da"):
        repartition_hydrogen(written(tmp_path, molecule("CH4")).topology, 4.0)
    assert repartition_hydrogen(written(tmp_path, molecule("CH4")).topology, 3.0).min() == pytest.approx(3.0)
    with pytest.raises(InputError, match="without a heavy neighbour"):
        repartition_hydrogen(written(tmp_path, molecule("H2")).topology, 3.0)
    with pytest.raises(InputError, match="without a heavy neighbour"):
        repartition_hydrogen(written(tmp_path, Atoms("ArH", positions=[[0, 0, 0], [5, 0, 0]])).topology, 3.0)


def test_the_time_steps_of_the_guide_are_those_measured(repository):
    """1 fs with light hydrogen, 2 fs with 3 Da: drift below 0.05 meV an atom and ps; beyond, it breaks."""
    record = json.loads((repository / "benchmarks/results/hydrogen_mass.json").read_text())
    for name, system in record["systems"].items():
        runs = {(run["hydrogen_mass"], run["timestep_fs"]): run for run in system["runs"]}
        for key in ((None, 1.0), (1.5, 1.5), (3.0, 2.0)):
            run = runs[key]
            assert run["stable"] and abs(run["drift_meV_atom_ps"]) < 0.05 + run["drift_error_meV_atom_ps"], (name, key)
        assert not runs[None, 2.0]["stable"] and not runs[3.0, 3.0]["stable"]


def test_a_system_has_the_masses_it_is_given(tmp_path):
    structure = written(tmp_path, molecule("CH3OH"))
    masses = frozen(repartition_hydrogen(structure.topology, 3.0), [0, 2])
    system = mace_md.make_system(structure.topology, openmm.CustomExternalForce("0"), masses=masses)
    found = [system.getParticleMass(i)._value for i in range(system.getNumParticles())]
    assert found == masses.tolist() and found[0] == found[2] == 0.0
    with pytest.raises(InputError, match="nothing would move"):
        frozen(masses, range(len(masses)))
