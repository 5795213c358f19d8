"""The checks of the validation report find the bugs that they are for, and pass the same simulation without the bug."""

import dataclasses

import pytest
from physics import planted

from mace_md.ops.energy_forces import LIBRARY
from mace_md.ops.neighbor_list import VerletList
from validation import checks
from validation.sampling import Ensemble, build, run, sample
from validation.systems import ideal_gas, rare_gas

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="too slow without the native kernels")

NVE = Ensemble(None, 60.0, seed=5)


def order_of(matter, force=lambda: None, plant=lambda dynamics: dynamics, ensemble=NVE):
    """`checks.convergence` along 1 ps of a simulation with a planted force or integrator."""
    series = {}
    for step in (8.0, 4.0):
        simulation, dynamics = build(matter, ensemble, timestep=step, force=force(), plant=plant)
        series[step] = sample(simulation, dynamics, count=62, every=round(16 / step)).conserved
    return checks.convergence(series)


def test_forces_one_percent_too_large():
    """Energy and forces that do not belong together are not conserved, however small the step."""
    matter = rare_gas(repeats=1)
    potential = planted.potential_of(matter)
    assert order_of(matter, lambda: planted.python_force(planted.ScaledForces(potential, 1.0))).passes
    assert not order_of(matter, lambda: planted.python_force(planted.ScaledForces(potential, 1.01))).passes


def test_neighbour_list_built_too_late():
    """Atoms of a hot gas may go as far as the skin, not half of it: pairs come into reach before the list is built."""
    matter = rare_gas(lattice=0.8, repeats=1)

    def force(kind):
        return lambda: planted.python_force(planted.with_list(matter, kind, skin=2.0))

    hot = dataclasses.replace(NVE, temperature=600.0)
    assert order_of(matter, force(VerletList), ensemble=hot).passes
    assert not order_of(matter, force(planted.LateList), ensemble=hot).passes


def test_second_half_kick_missing():
    assert order_of(rare_gas(repeats=1)).passes
    assert not order_of(rare_gas(repeats=1), plant=planted.symplectic_euler).passes


@pytest.mark.parametrize("bug", [None, "atoms are scaled", "bonds are unknown to the System"])
def test_barostat_scales_atoms_where_molecules_are_meant(bug):
    """Atoms that only their topology joins, so that nothing but the barostat knows that 16 molecules are the gas."""
    matter = dataclasses.replace(ideal_gas(60.0, 50.0, 16, atoms_each=2), spring=0.0)
    ensemble = Ensemble("langevin", 60.0, "isotropic", 50.0, "molecules", barostat_interval=1, seed=3)
    if bug == "atoms are scaled":
        ensemble = dataclasses.replace(ensemble, scaling="atoms")
    elif bug is not None:
        matter = planted.cut_bonds(matter)
    volumes = run(matter, ensemble, count=500, every=5, equilibration=200).volume
    assert bool(checks.failures(checks.ideal_gas(volumes, 16, 60.0, 50.0))) == (bug is not None)


@pytest.mark.parametrize("bug", [None, "three degrees of freedom too many", "weak coupling"])
def test_velocity_rescaling(bug):
    matter, ensemble = rare_gas(repeats=1), Ensemble("bussi", 40.0, seed=8)
    plants = {
        None: lambda dynamics: dynamics,
        "three degrees of freedom too many": planted.more_dof(matter, ensemble, 3),
        "weak coupling": planted.weak_coupling(matter, ensemble),
    }
    simulation, dynamics = build(matter, ensemble, plant=plants[bug])
    samples = sample(simulation, dynamics, count=1200, every=10, equilibration=500)
    assert bool(checks.failures(checks.kinetic_energy(matter, ensemble, samples))) == (bug is not None)


@pytest.mark.parametrize("bug", [None, "kT in calories"])
def test_langevin(bug):
    matter, ensemble = rare_gas(repeats=1), Ensemble("langevin", 40.0, seed=9)
    plant = planted.in_calories if bug else lambda dynamics: dynamics
    simulation, dynamics = build(matter, ensemble, plant=plant)
    samples = sample(simulation, dynamics, count=600, every=10, equilibration=500)
    assert bool(checks.failures(checks.kinetic_energy(matter, ensemble, samples))) == (bug is not None)
