"""Every integrator and barostat samples its ensemble: a short form of the validation report; marked slow, all of it.

Seeds are fixed. The pass line of each test is that of its family of checks: see `validation.checks`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mace_md.md.files.readout import make_readout
from mace_md.ops.energy_forces import LIBRARY
from validation import calibration, cases, checks, deviations, harmonic, report, ring_polymer
from validation.models import R_MAX, dimer_energies, ideal_gas_model, pair_energy, rare_gas_model
from validation.sampling import Ensemble, build, run, sample
from validation.systems import ideal_gas, rare_gas

needs_kernels = pytest.mark.skipif(not LIBRARY.exists(), reason="too slow without the native kernels")


def assert_all_pass(found):
    failed = checks.failures(found)
    assert not failed, "\n".join(f"{c.quantity}: {c.found}, theory {c.expected}, {c.sigma} sigma" for c in failed)


# ------------------------------------------------------------------------------------------------ the models


def test_the_rare_gas_has_the_pair_potential_that_it_says():
    """To 0.3 meV outside the core: 3 % of the well depth."""
    r = np.linspace(2.6, R_MAX + 0.2, 150)
    assert np.abs(dimer_energies(rare_gas_model(many_body=0.0), r) - pair_energy(r)).max() < 3e-4


def test_the_ideal_gas_has_no_energy():
    assert not dimer_energies(ideal_gas_model(), np.linspace(0.5, 6.5, 20)).any()


# ------------------------------------------------------------------------------------------------ the short form


@needs_kernels
@pytest.mark.parametrize("thermostat", [None, *cases.THERMOSTATS])
def test_order_of_the_integrator(thermostat):
    """Error ratio 4 +- 25 % on halving the step; without friction the Langevin scheme is one for constant energy."""
    ensemble = Ensemble(thermostat, 40.0, friction=0.0 if thermostat == "langevin" else 4.0, seed=12)
    series = {}
    for step in (8.0, 4.0):
        simulation, dynamics = build(rare_gas(repeats=1), ensemble, timestep=step)
        samples = sample(simulation, dynamics, count=125, every=round(16 / step))
        series[step] = samples.potential + samples.on_step if thermostat == "langevin" else samples.conserved
    assert_all_pass([checks.convergence(series)])


@needs_kernels
def test_conserved_energy_of_the_log_is_of_second_order():
    """The Nose-Hoover chain acts on velocities half a step old; the column is for the time of the positions."""
    series = {}
    for step in (8.0, 4.0):
        simulation, dynamics = build(rare_gas(repeats=1), Ensemble("nose-hoover", 40.0, seed=12), timestep=step)
        readout, rows = make_readout(simulation, dynamics), []
        for _ in range(125):
            simulation.integrator.step(round(16 / step))
            rows.append(readout.energies(stepped=True, forces=False)[0].conserved)
        series[step] = np.array(rows)
    assert_all_pass([checks.convergence(series)])


@needs_kernels
@pytest.mark.parametrize("thermostat", cases.THERMOSTATS)
def test_kinetic_energy_and_equipartition(thermostat):
    matter, ensemble = rare_gas(), Ensemble(thermostat, 40.0, seed=21)
    samples = run(matter, ensemble, count=600, every=10, equilibration=500)
    assert_all_pass(checks.kinetic_energy(matter, ensemble, samples) + checks.equipartition(matter, ensemble, samples))
    assert deviations.mean_of(samples.kinetic).error < 0.02 * samples.kinetic.mean()  # or the comparison says nothing


@needs_kernels
def test_harmonic_crystal():
    matter = rare_gas(repeats=1)
    samples = run(matter, Ensemble("langevin", 0.5, seed=4), count=2000, every=10, equilibration=500)
    crystal = harmonic.crystal(matter)
    assert_all_pass(harmonic.classical(crystal, samples, 0.5))
    assert len(checks.failures(harmonic.classical(crystal, samples, 0.6))) > 1  # it would notice another temperature


@needs_kernels
@pytest.mark.parametrize("kind", cases.BAROSTATS)
def test_ideal_gas(kind):
    ensemble = Ensemble("langevin", 60.0, kind, 50.0, barostat_interval=1, seed=6)
    samples = run(ideal_gas(60.0, 50.0, 16), ensemble, count=600, every=5, equilibration=300)
    assert_all_pass(checks.ideal_gas(samples.volume, 16, 60.0, 50.0))
    assert deviations.mean_of(samples.volume).error < 0.05 * samples.volume.mean()  # or the comparison says nothing


@needs_kernels
def test_ring_polymers_of_free_particles():
    matter = ideal_gas(20.0, 50.0, 4)
    samples = ring_polymer.sample_beads(matter, 20.0, 5.0, friction=5.0, count=200, every=10, seed=2)
    assert_all_pass(ring_polymer.free_particles(matter, 20.0, samples))


# ------------------------------------------------------------------------------------------------ the report


def test_the_page_is_what_the_numbers_say(repository):
    results, nve = (
        json.loads((repository / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("validation", "nve")
    )
    assert report.text(results, nve) == (repository / "docs" / "validation.md").read_text()
    assert not checks.failures(report.all_checks(results))
    assert calibration.calibration(report.replicated(results)).passes


# ------------------------------------------------------------------------------------------------ the long form


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("case", cases.plan(), ids=lambda case: case.name)
def test_case_of_the_report(case, tmp_path):
    """The simulations of the report, judged one case at a time; VALIDATION_SAMPLES is a folder that keeps them."""
    assert_all_pass(case.make(cases.Store(Path(os.environ.get("VALIDATION_SAMPLES", tmp_path)))))
