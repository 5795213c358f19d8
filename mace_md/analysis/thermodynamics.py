"""From the log: energies, temperature, density, box; and what their fluctuations say.

Fluctuation formulas: Allen and Tildesley, Computer Simulation of Liquids (2017), section 2.5. All are classical: nuclei
have no zero-point energy, and a stiff vibration holds its full kT.
"""

import math

import numpy as np

from mace_md.analysis.statistics import Mean, TooShort, inefficiency, mean_of
from mace_md.units import BOLTZMANN_KJ_MOL_K

BAR_NM3_TO_KJ_MOL = 0.0602214076  # 1e5 Pa * 1e-27 m^3 * N_A / 1000
GPA_NM3_TO_KJ_MOL = 602.214076
KJ_TO_J = 1e3


def variance_of(series: np.ndarray) -> Mean:
    """Variance of a correlated series, unbiased for its inefficiency g: (n - g) / n of it is in the mean."""
    series = np.asarray(series, dtype=float)
    squares = (series - series.mean()) ** 2
    g = min(inefficiency(series), len(series) / 2)
    mean = mean_of(squares)
    if len(series) / g < 10:
        raise TooShort(len(series) / g, len(series))
    return mean.scaled(1 / (1 - g / len(series)))


def heat_capacity(energy: np.ndarray, temperature: float) -> Mean:
    """C = var(E) / (k T^2), J/(mol K) of the whole system.

    energy [n] : total energy, kJ/mol, of NVT (gives C_V); energy + P V of NPT (gives C_P). temperature : K, of the
    bath.
    """
    return variance_of(energy).scaled(KJ_TO_J / (BOLTZMANN_KJ_MOL_K * temperature**2))


def compressibility(volume: np.ndarray, temperature: float) -> Mean:
    """Isothermal: var(V) / (<V> k T), 1/GPa. volume [n] nm^3, of NPT; temperature K."""
    scale = GPA_NM3_TO_KJ_MOL / (float(np.mean(volume)) * BOLTZMANN_KJ_MOL_K * temperature)
    return variance_of(volume).scaled(scale)


def thermal_expansion(volume: np.ndarray, enthalpy: np.ndarray, temperature: float) -> Mean:
    """cov(V, H) / (<V> k T^2), 1/K. volume [n] nm^3, enthalpy [n] kJ/mol, of NPT; temperature K."""
    volume, enthalpy = np.asarray(volume, dtype=float), np.asarray(enthalpy, dtype=float)
    products = (volume - volume.mean()) * (enthalpy - enthalpy.mean())
    for series in (volume, enthalpy):
        if len(series) / inefficiency(series) < 10:
            raise TooShort(len(series) / inefficiency(series), len(series))
    return mean_of(products).scaled(1 / (float(volume.mean()) * BOLTZMANN_KJ_MOL_K * temperature**2))


def enthalpy(total: np.ndarray, volume: np.ndarray, pressure: float) -> np.ndarray:
    """E + P V, kJ/mol. total kJ/mol, volume nm^3, pressure bar."""
    return np.asarray(total) + pressure * BAR_NM3_TO_KJ_MOL * np.asarray(volume)


def drift(times: np.ndarray, series: np.ndarray) -> float:
    """Slope of a straight line through a series, its unit a ps."""
    return float(np.polyfit(times, series, 1)[0]) if len(times) > 2 and np.ptp(times) > 0 else math.nan
