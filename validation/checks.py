"""Samples against theory: each function returns `Check`s, numbers with the deviation from theory in standard errors.

The distribution of the kinetic energy is judged by physical_validation (Merz and Shirts, PLoS ONE 13, e0202764, 2018),
on samples far enough apart to be independent. Its other checks are made here with the same theory and other errors: it
takes thinned samples for independent, and gives right results up to 1.3 times the deviation that they have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from mace_md.analysis.statistics import independent, quiet
from mace_md.units import BOLTZMANN_KJ_MOL_K
from validation.deviations import exponential_ratio, mean_of, normal_of_p
from validation.sampling import Ensemble, Samples
from validation.systems import BAR_NM3, Matter, ideal_gas_volume

FAMILY_ERROR = 0.01  # allowed probability that a correct program fails any of the statistical checks of a report


@dataclass(frozen=True)
class Check:
    """One comparison. `sigma`: deviation in standard errors, or the equivalent of a p-value; None for a fixed limit.

    passes : for a fixed limit only; a statistical check is judged with all others, by `sigma_limit`.
    independent : of all other checks of which this is said; see `validation.calibration`.
    """

    quantity: str
    found: str
    expected: str
    sigma: float | None = None
    passes: bool | None = None
    independent: bool = False

    @property
    def p_value(self) -> float | None:
        """Two-sided, of a normal deviation."""
        return None if self.sigma is None else float(2 * stats.norm.sf(abs(self.sigma)))


def sigma_limit(num_checks: int, error: float = FAMILY_ERROR) -> float:
    """Bonferroni: the deviation that one of `num_checks` correct results exceeds with probability `error`, at most."""
    return float(stats.norm.isf(error / num_checks / 2))


def failures(checks: Sequence[Check]) -> list[Check]:
    """Those beyond the limit of their family (`sigma_limit`), and fixed limits not kept."""
    limit = sigma_limit(max(1, sum(check.sigma is not None for check in checks)))
    return [c for c in checks if c.passes is False or (c.sigma is not None and not abs(c.sigma) <= limit)]


def mean_against(
    quantity: str, series: np.ndarray, expected: float, unit: str, digits: int = 3, independent: bool = False
) -> Check:
    """Mean of a correlated series against its exact value."""
    mean = mean_of(series)
    found = f"{mean.value:.{digits}f} ± {mean.error:.{digits}f} {unit}".strip()
    return Check(quantity, found, f"{expected:.{digits}f}", mean.sigma(expected), independent=independent)


# ------------------------------------------------------------------------------------------------ physical_validation


def _physical_validation():
    with quiet():  # pymbar, which it imports, says a lot
        import physical_validation

    return physical_validation


def simulation_data(matter: Matter, ensemble: Ensemble, samples: Samples, timestep: float | None = None):
    """The samples as physical_validation takes them; units are GROMACS': kJ/mol, nm, ps, bar, K."""
    with quiet():
        from physical_validation.data import EnsembleData, ObservableData, SimulationData, SystemData, TrajectoryData
        from physical_validation.data import UnitData as Units
    molecules = matter.molecules
    starts = np.flatnonzero(np.r_[True, molecules[1:] != molecules[:-1]])
    removed = 3 * len(matter.masses) - samples.num_dof
    state = {"NVE": {"energy": float(samples.potential[0])}, "NVT": {"temperature": ensemble.temperature}}
    state["NPT"] = {"temperature": ensemble.temperature, "pressure": ensemble.pressure}
    volume = {} if ensemble.name == "NPT" else {"volume": float(samples.volume[0])}
    return SimulationData(
        units=Units(BOLTZMANN_KJ_MOL_K, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, "kJ/mol", "nm", "nm^3", "K", "bar", "ps"),
        dt=timestep or matter.timestep,
        system=SystemData(
            natoms=len(matter.masses),
            nconstraints=0,
            ndof_reduction_tra=removed,
            ndof_reduction_rot=0,
            mass=matter.masses,
            molecule_idx=starts,
            nconstraints_per_molecule=np.zeros(len(starts)),
        ),
        ensemble=EnsembleData(ensemble.name, natoms=len(matter.masses), **volume, **state[ensemble.name]),
        observables=ObservableData(
            kinetic_energy=samples.kinetic,
            potential_energy=samples.potential,
            total_energy=samples.kinetic + samples.potential,
            volume=samples.volume,
            constant_of_motion=samples.conserved,
        ),
        trajectory=TrajectoryData(position=samples.positions.astype(float), velocity=samples.velocities.astype(float)),
    )


# ------------------------------------------------------------------------------------------------ kinetic energy


def kinetic_energy(matter: Matter, ensemble: Ensemble, samples: Samples, split: bool = False) -> list[Check]:
    """The distribution of the kinetic energy: its mean, its width, and its shape (Kolmogorov-Smirnov).

    split : `equipartition` tests the mean of these samples, in two independent parts.
    """
    kT_half = 0.5 * BOLTZMANN_KJ_MOL_K * samples.num_dof
    T = samples.kinetic / kT_half
    variance = 2 / samples.num_dof * ensemble.temperature**2  # of the temperature
    one = samples.thinned(independent(samples.kinetic).step)
    with quiet():
        p = _physical_validation().kinetic_energy.distribution(
            simulation_data(matter, ensemble, one), strict=True, verbosity=0, data_is_uncorrelated=True
        )
    widths = (T - ensemble.temperature) ** 2 / variance
    return [
        mean_against("kinetic energy, mean", T, ensemble.temperature, "K", 2, not split),
        mean_against("kinetic energy, variance", widths, 1.0, "x theory", 3, True),
        Check("kinetic energy, distribution", f"p = {p:.3f}", f"gamma, {len(one.kinetic)} samples", normal_of_p(p)),
    ]


def equipartition(matter: Matter, ensemble: Ensemble, samples: Samples) -> list[Check]:
    """Temperature of each element; and of the translation, rotation and vibration of molecules."""
    masses, v = matter.masses, samples.velocities.astype(float)
    frozen_share = (3 * len(masses) - samples.num_dof) / (3 * len(masses))  # of the motion of the centre of mass
    molecules = matter.molecules
    bonded = len(set(molecules.tolist())) < len(masses)
    checks = []
    for mass in sorted(set(masses.tolist())):
        group = masses == mass
        kinetic = 0.5 * mass * (v[:, group] ** 2).sum(axis=(1, 2))
        # the part of the group in a centre of mass at rest is in proportion to its mass
        dof = 3 * group.sum() - (3 * len(masses) - samples.num_dof) * masses[group].sum() / masses.sum()
        T = 2 * kinetic / (dof * BOLTZMANN_KJ_MOL_K)
        checks.append(mean_against(f"temperature of {mass:.4g} Da", T, ensemble.temperature, "K", 2, not bonded))
    if bonded:
        for name, T in molecular_temperatures(matter, samples, 1 - frozen_share).items():
            checks.append(mean_against(f"temperature of {name}", T, ensemble.temperature, "K", 2, True))
    return checks


def molecular_temperatures(matter: Matter, samples: Samples, mobile: float = 1.0) -> dict[str, np.ndarray]:
    """Temperatures [n] of the centres of mass, and of the motion within molecules of one kind."""
    masses, molecules = matter.masses, matter.molecules
    count = int(molecules.max()) + 1
    member = (molecules[:, None] == np.arange(count)).astype(float)  # [n_atoms, n_molecules]
    total = masses @ member
    v = samples.velocities.astype(float)
    centre = np.einsum("tax,a,am->tmx", v, masses, member) / total[:, None]
    inner = v - centre[:, molecules]
    removed = 3 * len(masses) - samples.num_dof
    translation = (total * (centre**2).sum(axis=2)).sum(axis=1) / (3 * count - removed)
    inside = (masses * (inner**2).sum(axis=2)).sum(axis=1) / (3 * (len(masses) - count))
    return {"molecules (translation)": translation / BOLTZMANN_KJ_MOL_K,
            "their inside (rotation, vibration)": inside / BOLTZMANN_KJ_MOL_K}  # fmt: skip


# ------------------------------------------------------------------------------------------------ ensembles


def ensemble_ratio(first: tuple[Ensemble, Samples], second: tuple[Ensemble, Samples]) -> Check:
    """Ratio of the distributions at two state points, exact for any density of states (Shirts, JCTC 9, 909, 2013).

    NVT and two temperatures: of the potential energy; NPT: of the enthalpy, or at two pressures of the volume.
    """
    one, two = first[0], second[0]
    betas = [1 / (BOLTZMANN_KJ_MOL_K * point.temperature) for point in (one, two)]
    if one.pressure != two.pressure:
        name = f"volume at {one.pressure:g} and {two.pressure:g} bar"
        observed = [samples.volume for _, samples in (first, second)]
        slope = -betas[0] * (two.pressure - one.pressure) * BAR_NM3
    else:
        name = f"{'enthalpy' if one.barostat else 'potential energy'} at {one.temperature:g} and {two.temperature:g} K"
        observed = [samples.potential + one.pressure * BAR_NM3 * samples.volume for _, samples in (first, second)]
        slope = betas[0] - betas[1]
    ratio = exponential_ratio(*observed, slope)
    found = f"{ratio.value:.3f} ± {ratio.error:.3f} x Boltzmann"
    # the enthalpy shares one of its two series with the volume
    return Check(name, found, "1.000", ratio.sigma(1.0), independent="enthalpy" not in name)


def ideal_gas(volumes: np.ndarray, num_molecules: int, temperature: float, pressure: float) -> list[Check]:
    """<V> = (N + 1) kT / P, within three standard errors, and the distribution of V (Kolmogorov-Smirnov)."""
    expected = ideal_gas_volume(num_molecules, temperature, pressure)
    mean = mean_against("ideal gas, mean volume", volumes, expected, "nm³", 3, True)
    apart = volumes[independent(volumes)]
    p = stats.kstest(apart, stats.gamma(num_molecules + 1, scale=expected / (num_molecules + 1)).cdf).pvalue
    return [
        replace(mean, passes=bool(abs(mean.sigma) < 3)),
        Check("ideal gas, distribution of volume", f"p = {p:.3f}", f"gamma, {len(apart)} samples", normal_of_p(p)),
    ]


# ------------------------------------------------------------------------------------------------ integrators


def convergence(series: dict[float, np.ndarray]) -> Check:
    """Fluctuation of the conserved quantity for time steps that are halved: it falls by 4, within 25 %.

    series : time step (fs) -> conserved quantity along the same stretch of time.
    """
    steps = sorted(series, reverse=True)
    spreads = [float(series[step].std()) for step in steps]
    ratios = [a / b for a, b in zip(spreads, spreads[1:], strict=False)]
    passes = all(abs(ratio / 4 - 1) < 0.25 for ratio in ratios)
    return Check(
        "fluctuation of the conserved energy on halving the step",
        ", ".join(f"{ratio:.2f}" for ratio in ratios) + f" ({', '.join(f'{step:g}' for step in steps)} fs)",
        "4 ± 1",
        passes=passes,
    )


def drift(samples: Samples, num_atoms: int) -> tuple[Check, float]:
    """Straight line through the conserved quantity; its change over the whole series against the spread of K.

    Returns the check and the slope in meV/atom/ps.
    """
    slope = float(np.polyfit(samples.time, samples.conserved, 1)[0])  # kJ/mol/ps
    length = float(samples.time[-1] - samples.time[0])
    change = abs(slope) * length / samples.kinetic.std()
    per_atom = slope / 96.48533 / num_atoms * 1000
    found = f"{per_atom:+.2g} meV/atom/ps over {length:.0f} ps; {change:.3f} of the spread of K"
    return Check("drift of the conserved energy", found, "< 1 spread of K", passes=change < 1), per_atom


def for_each_step(matter: Matter, simulate: Callable[[float], np.ndarray], steps: Sequence[float]) -> Check:
    """`convergence` of what `simulate(step)` conserves."""
    return convergence({step: simulate(step) for step in steps})
