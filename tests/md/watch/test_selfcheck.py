"""The self-check passes a right force and stops each kind of wrong one."""

import numpy as np
import openmm
import pytest
import torch
from water_box import water_pdb

from mace_md.errors import SafetyStop
from mace_md.md.forces.model import make_force
from mace_md.md.system import make_system
from mace_md.md.watch import selfcheck
from mace_md.model.build import build_model
from mace_md.model.reading.checkpoint import load_model, save_model
from mace_md.structures.formats.molfile import from_smiles
from mace_md.structures.structure import assemble, read_structure
from mace_md.units import EV_TO_KJ_MOL

LIMITS = {"force_limit": 1e-3, "energy_limit": 0.1}


@pytest.fixture(scope="module")
def strong_model(tiny_model, tmp_path_factory):
    """The tiny model with a hundred times its energy: forces of some eV/A, as in a real one."""
    model = load_model(tiny_model)
    model.scale *= 100
    return save_model(model, tmp_path_factory.mktemp("strong") / "strong.mace")


@pytest.fixture
def disordered(tmp_path):
    """Eight waters with random displacements: forces of all sizes and directions."""
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    structure.positions[:] += np.random.default_rng(2).normal(0, 0.004, structure.positions.shape)
    return structure


def context_of(structure, *forces):
    system = make_system(structure.topology, forces[0])
    for force in forces[1:]:
        system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions)
    return context


def check(structure, model, *forces):
    return selfcheck.check_forces(context_of(structure, *forces), model, structure.atomic_numbers, **LIMITS)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 1e-4), ("float64", 1e-7)])
def test_right_force_passes(disordered, strong_model, dtype, expected):
    force = make_force(disordered.topology, load_model(strong_model, dtype=dtype))
    found = check(disordered, load_model(strong_model, dtype="float64"), force)
    assert found.force_deviation < expected
    assert found.largest_force > 0.1  # there was something to compare
    assert found.num_compared == 24
    assert found.num_slopes == 4
    assert found.slope_deviation < (1e-2 if dtype == "float32" else 1e-4)
    selfcheck.require(found)
    assert "24 atoms deviate by at most" in found.lines()[0]


def test_context_is_left_where_it_was(disordered, strong_model):
    force = make_force(disordered.topology, load_model(strong_model, dtype="float64"))
    context = context_of(disordered, force)
    selfcheck.check_forces(context, load_model(strong_model), disordered.atomic_numbers, **LIMITS)
    assert np.array_equal(context.getState(positions=True).getPositions(asNumpy=True)._value, disordered.positions)


def test_other_weights_are_stopped(disordered, strong_model):
    model = load_model(strong_model, dtype="float64")
    other = build_model(model.config, seed=8)
    found = check(disordered, model, make_force(disordered.topology, other))
    assert found.force_deviation > found.force_allowed
    assert found.slope_deviation < found.slope_allowed  # a consistent force, but of another model
    with pytest.raises(SafetyStop, match="the forces and the energy in OpenMM deviate.*--kernels reference"):
        selfcheck.require(found)


def test_forces_one_percent_too_large_are_stopped(disordered, strong_model):
    """The force of 1.01 times the model, whose energy belongs to it: only the reference can tell."""
    model = load_model(strong_model, dtype="float64")
    scaled = load_model(strong_model, dtype="float64")
    scaled.scale *= 1.01
    found = check(disordered, model, make_force(disordered.topology, scaled))
    assert "the forces" in found.failure()


class Curl(torch.nn.Module):
    """A force that is not the slope of its energy: the energy is zero."""

    def forward(self, positions):
        ones = torch.ones_like(positions)
        return torch.zeros((), dtype=torch.float64), ones - ones.mean(dim=0) + 100.0 * torch.sin(positions * 40.0)


def test_force_that_is_no_slope_is_stopped(disordered, strong_model):
    """Without a model to compare with, the slopes of the energy still tell."""
    pytest.importorskip("openmmtorch")
    import openmmtorch

    force = openmmtorch.TorchForce(torch.jit.script(Curl()))
    force.setOutputsForces(True)
    found = check(disordered, None, force)
    assert found.num_compared == 0
    assert found.failure() == "the slopes of the energy"


def test_numbers_that_are_not_finite_are_over_every_limit(disordered, strong_model):
    spoiled = load_model(strong_model, dtype="float64")
    spoiled.scale *= float("nan")
    force = make_force(disordered.topology, spoiled, kernels="reference")  # the native ones refuse such a model
    found = check(disordered, load_model(strong_model, dtype="float64"), force)
    assert "the forces" in found.failure()
    assert "the energy" in found.failure()


@pytest.mark.parametrize("periodic", [True, False])
def test_large_systems_are_compared_atom_by_atom_exactly(disordered, strong_model, periodic, monkeypatch):
    """The part of the system that acts on an atom gives the force of the whole, to rounding."""
    model = load_model(strong_model, dtype="float64")
    box = 10 * disordered.box if periodic else None
    reference = selfcheck._Reference(model, disordered.atomic_numbers, 10 * disordered.positions, box)
    _, forces = reference.whole()
    for memory in (1e5, 1e12):
        monkeypatch.setattr(selfcheck, "MEMORY", memory)
        assert reference.fits == (memory > 1e11)
        for probe in (0, 7, 23):
            assert np.allclose(reference.force_on(probe), forces[probe], atol=1e-10)


def test_large_systems_check_forces_without_an_energy(disordered, strong_model, monkeypatch):
    monkeypatch.setattr(selfcheck, "MEMORY", 1e5)
    force = make_force(disordered.topology, load_model(strong_model, dtype="float32"))
    found = check(disordered, load_model(strong_model, dtype="float64"), force)
    assert found.energy_deviation is None
    assert found.num_compared == 3
    assert found.failure() is None
    selfcheck.require(found)


def test_many_atoms_are_compared_by_the_kernels_and_these_on_a_piece(disordered, strong_model, monkeypatch):
    """Every atom is compared; a wrong force is seen, and so are wrong kernels."""
    pytest.importorskip("openmmtorch")
    monkeypatch.setattr(selfcheck, "WHOLE", 10)
    monkeypatch.setattr(selfcheck, "PIECE", 3)
    model = load_model(strong_model, dtype="float64")
    found = check(disordered, model, make_force(disordered.topology, load_model(strong_model, dtype="float32")))
    assert found.num_compared == 24 and 3 < found.num_plain < 24
    assert found.force_deviation < 1e-4 and found.energy_deviation < 1e-4
    assert f"on {found.num_plain} atoms, forces of 24 atoms" in found.lines()[0]
    selfcheck.require(found)
    scaled = load_model(strong_model, dtype="float64")
    scaled.scale *= 1.01
    assert "the forces" in check(disordered, model, make_force(disordered.topology, scaled)).failure()
    right = selfcheck.energy_forces
    monkeypatch.setattr(selfcheck, "energy_forces", lambda *a: tuple(1.01 * x for x in right(*a)))
    spoiled = check(disordered, model, make_force(disordered.topology, scaled))  # only the piece can tell
    assert "the forces" in spoiled.failure()


def test_energy_deviation_is_per_atom(disordered, strong_model):
    """A constant of 1 meV an atom, which changes no force, is over the limit of 0.1 meV an atom."""
    constant = openmm.CustomExternalForce(f"{EV_TO_KJ_MOL / 1000}")
    for index in range(len(disordered.positions)):
        constant.addParticle(index, [])
    force = make_force(disordered.topology, load_model(strong_model, dtype="float64"))
    found = check(disordered, load_model(strong_model, dtype="float64"), force, constant)
    assert found.failure() == "the energy"
    assert 1000 * found.energy_deviation / 24 == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("smiles", "stretch"), [("[C-]#[O+]", 1.0), ("C#C", 1.0), ("C#N", 1.04)])
def test_slopes_of_stiff_bonds_converge(smiles, stretch, dtype):
    """Over 0.01 A the slope of the energy of CO is off by 3.5e-2 eV/A; the force is right, and is not refused."""
    structure = assemble(from_smiles(smiles, seed=1))
    structure.positions[:] *= stretch
    force = make_force(structure.topology, load_model("mace-md-small", dtype=dtype))
    model, float64 = load_model("mace-md-small", dtype="float64"), dtype == "float64"
    found = selfcheck.check_forces(
        context_of(structure, force), model, structure.atomic_numbers, energy_limit=0.1, float64=float64
    )
    assert found.failure() is None
    assert found.slope_deviation < (1e-2 if dtype == "float32" else 1e-4)


@pytest.mark.parametrize(("factor", "dtype"), [(1.01, "float32"), (1.01, "float64"), (1.0001, "float64")])
@pytest.mark.parametrize("without_model", [False, True])
def test_planted_errors_are_found(factor, dtype, without_model):
    """Forces of `factor` times the slope of the energy, of a stiff molecule: by the model, and by the slopes alone."""
    structure = assemble(from_smiles("C#N", seed=1))
    structure.positions[:] *= 1.05
    model = load_model("mace-md-small", dtype="float64")
    same = load_model("mace-md-small", dtype=dtype)
    right = context_of(structure, make_force(structure.topology, same)).getState(forces=True).getForces(asNumpy=True)
    planted = (factor - 1.0) * np.array(right._value)
    context = context_of(structure, make_force(structure.topology, same), openmm.PythonForce(lambda _: (0.0, planted)))
    reference, float64 = None if without_model else model, dtype == "float64"
    found = selfcheck.check_forces(context, reference, structure.atomic_numbers, energy_limit=0.1, float64=float64)
    assert "the slopes of the energy" in found.failure()
    assert without_model or "the forces" in found.failure()
