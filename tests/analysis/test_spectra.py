"""Spectra against normal modes: a water of springs, propagated by leapfrog, whose frequencies are known exactly."""

import numpy as np
import pytest
from known_systems import WATER, waters
from scipy.linalg import eigh

from mace_md.analysis import dipoles, spectra
from mace_md.errors import InputError
from mace_md.units import BOLTZMANN_KJ_MOL_K

MASSES = np.array([15.999, 1.008, 1.008])
SPRINGS = ((0, 1, 4.5e5), (0, 2, 4.5e5), (1, 2, 0.9e5))  # kJ/mol/nm^2
CHARGES = np.array([-0.8, 0.4, 0.4])


def hessian():
    """[9, 9] kJ/mol/nm^2, of springs at rest."""
    found = np.zeros((3, 3, 3, 3))
    for i, j, k in SPRINGS:
        direction = (WATER[i] - WATER[j]) / np.linalg.norm(WATER[i] - WATER[j])
        block = k * np.outer(direction, direction)
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            found[a, :, b] += sign * block
    return found.reshape(9, 9)


def modes():
    """Wavenumbers 1/cm of the three vibrations."""
    squares = eigh(hessian(), np.diag(np.repeat(MASSES, 3)), eigvals_only=True)
    return np.sqrt(squares[-3:]) / (2 * np.pi * spectra.CM_PS)


def leapfrog(timestep, picoseconds, every=1, temperature=300.0, seed=3):
    """Positions and half-step velocities [f, 3, 3] of harmonic water, nm and nm/ps; timestep fs."""
    rng = np.random.default_rng(seed)
    matrix, mass, dt = hessian(), np.repeat(MASSES, 3), timestep * 1e-3
    values, vectors = eigh(matrix, np.diag(mass))
    amplitudes = np.zeros(9)
    amplitudes[-3:] = np.sqrt(2 * BOLTZMANN_KJ_MOL_K * temperature / values[-3:])
    phases = rng.uniform(0, 2 * np.pi, size=9)
    x = vectors @ (amplitudes * np.cos(phases))
    w = 2 / dt * np.arcsin(np.sqrt(np.abs(values)) * dt / 2)  # of the leapfrog: amplitudes stay what they are
    v = vectors @ (amplitudes * (np.cos(phases) - np.cos(phases - w * dt)) / dt)
    positions, velocities = [], []
    for step in range(round(picoseconds / dt)):
        if step > 0:  # the first velocity is that of half a step before the first position
            v = v - dt * (matrix @ x) / mass
            x = x + dt * v
        if step % every == 0:
            positions.append(x)
            velocities.append(v)
    return np.array(positions).reshape(-1, 3, 3) + WATER, np.array(velocities).reshape(-1, 3, 3)


@pytest.mark.parametrize("timestep", [0.25, 0.5, 1.0])
def test_lines_are_the_normal_modes_after_the_correction(timestep):
    """Within one bin of 3.3 1/cm of 10 ps; without the correction the O-H stretches are elsewhere."""
    _, velocities = leapfrog(timestep, 10.0)
    found = spectra.vdos(velocities, MASSES, timestep * 1e-3, timestep=timestep, resolution=3.34)
    assert np.abs(spectra.peaks(found, most=3) - modes()).max() < 3.34
    seen = spectra.peaks(spectra.vdos(velocities, MASSES, timestep * 1e-3, resolution=3.34), most=3)
    w = 2 * np.pi * spectra.CM_PS * modes()
    expected = 2 / (timestep * 1e-3) * np.arcsin(w * timestep * 1e-3 / 2) / (2 * np.pi * spectra.CM_PS)
    assert np.abs(seen - expected).max() < 3.34
    if timestep == 1.0:
        assert seen[-1] - modes()[-1] > 50


def test_the_integral_is_the_number_of_degrees_of_freedom():
    """3N at the temperature of the velocities, on either axis; of a gas of free particles too."""
    _, velocities = leapfrog(0.5, 10.0)
    plain = spectra.vdos(velocities, MASSES, 0.5e-3, resolution=5.0)
    assert abs(spectra.integral(plain) - 9) < 0.05  # Parseval; the window sees the ends less
    corrected = spectra.vdos(velocities, MASSES, 0.5e-3, timestep=0.5, resolution=5.0)
    assert abs(spectra.integral(corrected) - 9) < 0.06
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(4096, 5, 3))
    flat = spectra.vdos(noise, np.full(5, 2.0), 1e-3, resolution=20.0)
    assert abs(spectra.integral(flat) - 15) < 0.2


def test_each_mode_counts_one():
    """Of modes with kT each the lines have an area of one: the window sees whole periods, and the rest is noise."""
    _, velocities = leapfrog(0.5, 6.0)
    found = spectra.vdos(velocities, MASSES, 0.5e-3, timestep=0.5, resolution=6.0, temperature=300.0)
    for line in modes()[:1]:
        near = np.abs(found.wavenumber - line) < 100
        assert abs(np.trapezoid(found.intensity[near], found.wavenumber[near]) - 1) < 0.02
    stretches = found.wavenumber > 3000
    assert abs(np.trapezoid(found.intensity[stretches], found.wavenumber[stretches]) - 2) < 0.05


def test_infrared_lines_are_at_the_same_places():
    positions, velocities = leapfrog(0.5, 10.0)
    moments = dipoles.dipoles_of_charges(positions, CHARGES)
    infrared = spectra.infrared(moments, 0.5e-3, timestep=0.5, resolution=3.34)
    at = spectra.peaks(infrared, least=1e-4)
    for line in modes():
        assert np.abs(at - line).min() < 3.34
    # and as high as the derivative of the dipole says: sum q v is d mu / dt, with the same window
    direct = spectra.Welch(0.5e-3, 3.34, len(velocities) - 1)
    direct.add(np.einsum("fni,n->fi", velocities[1:], CHARGES))
    expected = spectra.stretched(direct.result(), 0.5)
    area = np.trapezoid(infrared.intensity, infrared.wavenumber) / np.trapezoid(expected.intensity, expected.wavenumber)
    assert abs(area - 1) < 0.03  # half-step velocities are differences; the derivative is up to 2 % larger


def test_raman_of_a_breathing_polarisability():
    """One oscillation of the trace, another of the anisotropy: each in its part, 45 to 7."""
    time = np.arange(20000) * 0.5e-3
    a = 0.1 * np.cos(2 * np.pi * spectra.CM_PS * 1000 * time)
    g = 0.1 * np.cos(2 * np.pi * spectra.CM_PS * 2000 * time)
    tensor = a[:, None, None] * np.eye(3) + g[:, None, None] * np.diag([2, -1, -1]) / 3
    isotropic, anisotropic = spectra.raman(tensor, 0.5e-3, resolution=5.0)
    assert np.abs(spectra.peaks(isotropic, most=1) - 1000).max() < 2
    assert np.abs(spectra.peaks(anisotropic, most=1) - 2000).max() < 2
    # d/dt gives w^2; gamma^2 = (2/3 + 1/3)^2 g^2 = g^2 for this tensor
    ratio = spectra.integral(anisotropic) / spectra.integral(isotropic)
    assert abs(ratio - 7 / 45 * (2000 / 1000) ** 2) < 0.02


def test_several_segments_have_an_error():
    rng = np.random.default_rng(2)
    found = spectra.vdos(rng.normal(size=(20000, 4, 3)), np.ones(4), 1e-3, resolution=50.0)
    assert found.segments > 20 and found.error is not None
    inner = slice(10, -10)
    deviation = (found.intensity - found.intensity.mean())[inner] / found.error[inner]
    assert 0.6 < np.std(deviation) < 1.4


def test_frames_too_far_apart_are_refused():
    spectra.refuse_coarse(2e-3)
    with pytest.raises(InputError, match="50 fs apart.*--trajectory-interval.*--trajectory-data velocities"):
        spectra.refuse_coarse(0.05)


def test_too_few_frames_for_the_resolution_are_refused():
    welch = spectra.Welch(1e-3, 5.0)
    welch.add(np.zeros((100, 3)))
    with pytest.raises(InputError, match="larger --resolution"):
        welch.result()


# ------------------------------------------------------------------------------------------------ dipoles


def test_the_dipole_of_a_molecule_does_not_jump_at_the_boundary(tmp_path):
    from mace_md.analysis.geometry import make_whole, molecules_of

    topology, box = waters(2), np.repeat(2 * np.eye(3)[None], 50, axis=0)
    way = np.linspace(0, 3, 50)[:, None, None] * np.array([1.0, 0.3, 0.0])
    whole = np.concatenate([WATER + way, WATER[::1] + 1.0 - way], axis=1)
    molecules = molecules_of(topology)
    charges = np.tile(CHARGES, 2)
    found = dipoles.dipoles_of_charges(make_whole(whole % 2.0, box, molecules), charges, molecules.index)
    assert np.ptp(found, axis=0).max() < 1e-9
    assert np.allclose(found[0], 2 * CHARGES @ WATER, atol=1e-12)
    with pytest.raises(InputError, match="has .* e, and its dipole jumps"):
        dipoles.dipoles_of_charges(whole, np.array([-0.8, 0.4, 0.4, -0.7, 0.4, 0.3 + 0.1]), molecules.index)


def test_charges_from_a_file(tmp_path):
    path = tmp_path / "charges.csv"
    path.write_text("name,charge\nO,-0.834  # TIP3P\nHOH:H1,0.417\nH2,0.417\n")
    assert np.allclose(dipoles.read_charges(path, waters(2)), [-0.834, 0.417, 0.417] * 2)
    for text, message in (("O,-0.8\n", "4 atoms have no charge, the first of them 2"), ("name,charge\nO\n", "line 2"),
                          ("9,1\n", "there is no atom 9"), ("O,-0.8\nH1,0.4\nH2,0.5\n", "sum to")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            dipoles.read_charges(path, waters(2))


def test_dielectric_constant_of_free_dipoles():
    """N dipoles that turn freely: epsilon - 1 = 4 pi N mu^2 / (3 * 3 V kT ...): <M^2> = N mu^2, in Gaussian units."""
    rng = np.random.default_rng(5)
    count, mu, volume, T = 50, 0.04, 8.0, 300.0
    directions = rng.normal(size=(20000, count, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    found = dipoles.dielectric_constant(mu * directions.sum(axis=1), volume, T)
    expected = 1 + 4 * np.pi * 138.93545764 * count * mu**2 / (3 * volume * BOLTZMANN_KJ_MOL_K * T)
    assert found.interval()[0] < expected < found.interval()[1]
    assert found.half_width() < 0.05 * (expected - 1)


def test_dipoles_of_a_model_are_read(tmp_path):
    path = tmp_path / "dipoles.npz"
    np.savez(path, time_ps=np.arange(3.0), dipole_eA=np.ones((3, 3)), polarizability=np.ones((3, 3, 3)))
    times, moments, polarizability = dipoles.read_dipoles(path)
    assert times.tolist() == [0, 1, 2] and np.all(moments == 0.1) and polarizability.shape == (3, 3, 3)
    np.savez(path, time_ps=np.arange(3.0), dipole_eA=np.ones((2, 3)))
    with pytest.raises(InputError, match="3 times, dipoles of shape"):
        dipoles.read_dipoles(path)
