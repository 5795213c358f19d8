"""D3(BJ) as a force of OpenMM: the library itself through ASE, finite differences, and no dispersion counted twice."""

import numpy as np
import openmm
import pytest
from ase import Atoms
from water_box import water_pdb

from mace_md.errors import InputError
from mace_md.md.forces.dispersion import DISPERSION_GROUP, choose_functional, dispersion_force
from mace_md.structures.structure import read_structure
from mace_md.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL

pytest.importorskip("dftd3")


@pytest.fixture(params=[True, False], ids=["periodic", "isolated"])
def structure(request, tmp_path):
    return read_structure(water_pdb(tmp_path / "water.pdb", per_side=2, spacing=3.4, periodic=request.param))


def context_of(structure, functional="pbe", cutoff=15.0):
    system = openmm.System()
    for mass in structure.masses:
        system.addParticle(mass)
    if structure.box is not None:
        system.setDefaultPeriodicBoxVectors(*structure.box)
    periodic = structure.box is not None
    system.addForce(dispersion_force(structure.atomic_numbers, functional, cutoff=cutoff, periodic=periodic))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions)
    return context


def evaluated(context, positions=None):
    if positions is not None:
        context.setPositions(positions)
    state = context.getState(energy=True, forces=True, groups={DISPERSION_GROUP})
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


@pytest.mark.parametrize("functional", ["pbe", "r2scan"])
def test_energy_and_forces_are_the_librarys(structure, functional):
    """Its ASE calculator sums pairs to 60 Bohr (31.75 A) without smoothing; compared with a cutoff about there."""
    from dftd3.ase import DFTD3

    box = structure.box
    atoms = Atoms(structure.atomic_numbers, structure.positions * 10, cell=None if box is None else box * 10)
    atoms.pbc = box is not None
    atoms.calc = DFTD3(method=functional, damping="d3bj")
    energy, forces = evaluated(context_of(structure, functional, cutoff=34.0))
    # periodic: the pairs between 31.75 and 34 A, smoothed here; isolated: ASE's Hartree is of another year
    assert energy == pytest.approx(atoms.get_potential_energy() * EV_TO_KJ_MOL, rel=1e-3 if box is not None else 1e-7)
    assert energy < -1.0
    expected = atoms.get_forces() * EV_PER_ANGSTROM_TO_KJ_MOL_NM
    assert forces == pytest.approx(expected, abs=1e-3 * np.abs(expected).max())


def test_forces_are_the_slope_of_the_energy(structure):
    """Also across the cutoff, where the energy is smoothed: the box is smaller than it."""
    context = context_of(structure, cutoff=8.0)
    rng = np.random.default_rng(0)
    positions = structure.positions + rng.normal(0, 0.01, structure.positions.shape)
    _, forces = evaluated(context, positions)
    direction = forces / np.linalg.norm(forces)
    step = 1e-5  # nm; the error of the difference falls as its square, and is 1e-6 here
    above, below = (evaluated(context, positions + sign * step * direction)[0] for sign in (1, -1))
    assert -(above - below) / (2 * step) == pytest.approx((forces * direction).sum(), rel=1e-5)


def test_it_follows_the_box(tmp_path):
    """Energy in a changed box equals that of a force made for it: what a barostat needs."""
    structure = read_structure(water_pdb(tmp_path / "water.pdb", per_side=2, spacing=3.4))
    context = context_of(structure)
    evaluated(context)
    larger = structure.box * 1.1
    context.setPeriodicBoxVectors(*larger)
    energy, _ = evaluated(context, structure.positions * 1.1)
    (tmp_path / "other").mkdir()
    other = read_structure(
        water_pdb(tmp_path / "other" / "water.pdb", per_side=2, spacing=3.4), box=larger.diagonal() * 10
    )
    assert energy == pytest.approx(evaluated(context_of(other), structure.positions * 1.1)[0], rel=1e-9)


def test_the_force_can_be_copied(tmp_path):
    structure = read_structure(water_pdb(tmp_path / "water.pdb", per_side=2))
    force = dispersion_force(structure.atomic_numbers, "pbe", cutoff=10.0, periodic=True)
    clone = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(force))
    system = openmm.System()
    for mass in structure.masses:
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*structure.box)
    system.addForce(clone)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions)
    assert context.getState(energy=True).getPotentialEnergy()._value == pytest.approx(
        evaluated(context_of(structure, cutoff=10.0))[0], rel=1e-12
    )


def facts(theory, dispersion):
    return {"level_of_theory": theory, "dispersion": dispersion}


@pytest.mark.parametrize(
    "theory, dispersion, asked, missing, functional",
    [
        ("PBE+U", "not included", None, False, "pbe"),
        ("PBE (no +U)", "not included", None, False, "pbe"),
        ("r2SCAN", "not included", None, False, "r2scan"),
        ("PBE/def2-SVP", "unknown", None, True, "pbe"),
        ("unknown", "unknown", "revPBE", True, "revpbe"),
        ("PBE", "not included", "blyp", False, "blyp"),
    ],
)
def test_functional_follows_the_level_of_theory(theory, dispersion, asked, missing, functional):
    assert choose_functional(facts(theory, dispersion), "model", asked, missing=missing) == functional


@pytest.mark.parametrize(
    "theory, dispersion, asked, missing, message",
    [
        ("wB97M-D3(BJ)/def2-TZVPPD", "included", None, False, "counted twice. Leave --dispersion out"),
        ("wB97M-D3(BJ)/def2-TZVPPD", "included", "wb97m", True, "counted twice. Leave --dispersion out"),
        ("PBE-D4", "unknown", "pbe", True, "counted twice. Leave"),
        ("wB97M-V/def2-TZVPD", "unknown", "pbe", True, "counted twice. Leave"),
        ("GFN2-xTB", "unknown", "pbe", True, "counted twice. Leave"),
        ("CCSD(T)/CBS", "unknown", "pbe", True, "counted twice. Leave"),
        ("unknown", "unknown", "pbe", False, "--dispersion-missing yes"),
        ("PBE", "unknown", None, False, "--dispersion-missing yes"),
        ("unknown", "unknown", None, True, "level of theory of model is unknown"),
        ("nonsense", "not included", None, False, "no D3(BJ) parameters"),
    ],
)
def test_double_counting_and_guessing_are_refused(theory, dispersion, asked, missing, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        choose_functional(facts(theory, dispersion), "model", asked, missing=missing)


def test_every_published_model_is_decided():
    """Each named model says itself whether D3 may be added, and with which parameters."""
    from mace_md.model.reading.zoo import MODELS

    for model in MODELS:
        if model.dispersion == "included":
            with pytest.raises(InputError, match="counted twice"):
                choose_functional(model.facts(), model.name, None, missing=True)
        elif model.dispersion == "by head":
            with pytest.raises(InputError, match="--dispersion-functional"):
                choose_functional(model.facts(), model.name, None, missing=False)
        else:
            assert choose_functional(model.facts(), model.name, None, missing=False) in ("pbe", "r2scan")
