"""Spectra of vibrations: density of states from velocities, infrared from dipoles, Raman from polarisabilities.

All are Welch averages: the series is cut into segments that overlap by half, each under a Hann window, which keeps a
line from leaking over the spectrum; the spread between segments says how sure the heights are. A leapfrog integrator
makes vibrations too fast, w' = (2/dt) asin(w dt/2), which is taken back exactly where the time step is known.
"""

import math
from dataclasses import dataclass

import numpy as np

from mace_md.errors import InputError
from mace_md.units import BOLTZMANN_KJ_MOL_K

CM_PS = 0.0299792458  # speed of light, cm/ps
HC_KJ_MOL_CM = 0.01196265656  # h c N_A, kJ/mol per 1/cm
COARSEST = 4.0  # fs between frames; an O-H stretch takes 9 fs


@dataclass(frozen=True)
class Spectrum:
    """Wavenumber [n] 1/cm and intensity [n], with the standard error of the mean over segments; resolution 1/cm.

    error : None with fewer than 3 independent segments. shift : 1/cm, by how much a line at 3500 was moved back.
    """

    wavenumber: np.ndarray
    intensity: np.ndarray
    error: np.ndarray | None
    resolution: float
    segments: int


def leapfrog_corrected(wavenumber: np.ndarray, timestep: float) -> np.ndarray:
    """The frequency of the potential, w = (2/dt) sin(w' dt/2), of one seen in a trajectory; 1/cm, timestep fs."""
    w = 2 * math.pi * CM_PS * np.asarray(wavenumber)  # 1/ps
    half = timestep * 1e-3 / 2
    return np.sin(np.minimum(w * half, math.pi / 2)) / half / (2 * math.pi * CM_PS)


def refuse_coarse(step: float, what: str = "spectrum") -> None:
    """Raise InputError where frames (`step` ps apart) are too far apart for vibrations of hydrogen."""
    if step * 1e3 > COARSEST + 1e-9:
        raise InputError(
            f"{what}: frames are {1e3 * step:g} fs apart, and a vibration of hydrogen takes 9 fs: frames every 2 fs "
            f"are needed ({COARSEST:g} at most). Run with --trajectory-interval so that interval times --timestep is "
            "2 fs, --trajectory-format trr and --trajectory-data velocities."
        )


class Welch:
    """Power of many series at once, a segment at a time: memory for one segment, however long the trajectory is."""

    def __init__(self, step: float, resolution: float, length: int | None = None) -> None:
        """step : ps between samples. resolution : 1/cm, which sets the length of a segment (1 / (c resolution)).

        length : of the whole series, where it is known: a shorter series is one segment.
        """
        self.step = step
        wanted = max(16, round(1 / (CM_PS * resolution * step)))
        self.size = wanted if length is None else max(16, min(wanted, length))
        self.resolution = 1 / (CM_PS * self.size * step)
        self._window = np.hanning(self.size + 1)[:-1]
        self._padded = 1 << (2 * self.size - 1).bit_length()
        self.wavenumber = np.fft.rfftfreq(self._padded, step) / CM_PS
        self._rows: list[np.ndarray] = []
        self._kept: np.ndarray | None = None
        self.frames = 0

    def add(self, series: np.ndarray, weights: np.ndarray | None = None, keep_mean: bool = False) -> None:
        """series [f, n]; weights [n] of the sum over n. The mean of a segment is taken off unless `keep_mean`."""
        self._weights, self._keep_mean = weights, keep_mean
        series = np.asarray(series, dtype=np.float64)
        self.frames += len(series)
        self._kept = series if self._kept is None else np.concatenate([self._kept, series])
        while len(self._kept) >= self.size:
            self._rows.append(self._power(self._kept[: self.size]))
            self._kept = self._kept[max(1, self.size // 2) :]

    def _power(self, segment: np.ndarray) -> np.ndarray:
        segment = segment if self._keep_mean else segment - segment.mean(axis=0)
        power = np.abs(np.fft.rfft(segment * self._window[:, None], self._padded, axis=0)) ** 2
        power[1:-1] *= 2  # both signs of the frequency
        total = power.sum(axis=1) if self._weights is None else power @ self._weights
        # so that the integral over 1/cm is the mean square of the series
        return total * self.step * CM_PS / (self._window**2).sum()

    def result(self) -> Spectrum:
        """The mean over segments; raises InputError where not even one is there."""
        if not self._rows:
            raise InputError(
                f"spectrum: {self.frames} frames are fewer than the {self.size} of a resolution of "
                f"{self.resolution:.3g} 1/cm; a longer run, or a larger --resolution"
            )
        rows = np.array(self._rows)
        apart = max(1, (len(rows) + 1) // 2)  # every second segment overlaps with none
        error = rows[::2].std(axis=0, ddof=1) / math.sqrt(apart) if apart >= 3 else None
        return Spectrum(self.wavenumber, rows.mean(axis=0), error, self.resolution, len(rows))


def vdos(
    velocities: np.ndarray, masses: np.ndarray, step: float, *, timestep: float | None = None,
    resolution: float = 5.0, temperature: float | None = None,
) -> Spectrum:  # fmt: skip
    """Vibrational density of states: modes a wavenumber; its integral is the number of degrees of freedom.

    velocities [f, n_atoms, 3] nm/ps; masses [n_atoms] Da; step ps between frames; timestep fs of a leapfrog integrator,
    whose shift is then taken back. temperature : K; by default that of the velocities, which makes the integral 3N.
    """
    welch = Welch(step, resolution, len(velocities))
    weights = np.repeat(np.asarray(masses, dtype=float), 3)
    flat = np.asarray(velocities).reshape(len(velocities), -1)
    welch.add(flat, weights, keep_mean=True)
    if temperature is None:
        temperature = float(((np.asarray(flat, dtype=float) ** 2) @ weights).mean()) / (
            len(weights) * BOLTZMANN_KJ_MOL_K
        )
    return as_density_of_states(welch.result(), temperature, timestep)


def as_density_of_states(power: Spectrum, temperature: float, timestep: float | None) -> Spectrum:
    """From the mass-weighted power of velocities: divided by kT, so that each mode counts one."""
    kT = BOLTZMANN_KJ_MOL_K * temperature
    scaled = Spectrum(
        power.wavenumber, power.intensity / kT, None if power.error is None else power.error / kT, power.resolution,
        power.segments,
    )  # fmt: skip
    return scaled if timestep is None else stretched(scaled, timestep)


def stretched(spectrum: Spectrum, timestep: float) -> Spectrum:
    """On the axis of the potential's own frequencies; intensities grow as the axis shrinks, and integrals stay."""
    w = spectrum.wavenumber
    true = leapfrog_corrected(w, timestep)
    slope = np.maximum(np.cos(2 * math.pi * CM_PS * w * timestep * 1e-3 / 2), 1e-6)
    below = 2 * math.pi * CM_PS * w * timestep * 1e-3 / 2 < 0.95 * math.pi / 2
    error = None if spectrum.error is None else (spectrum.error / slope)[below]
    return Spectrum(true[below], (spectrum.intensity / slope)[below], error, spectrum.resolution, spectrum.segments)


def infrared(dipole: np.ndarray, step: float, *, timestep: float | None = None, resolution: float = 5.0) -> Spectrum:
    """Line shape of absorption, in arbitrary units: power of the time derivative of the dipole.

    dipole [f, 3] e nm of the whole system, of whole molecules, without jumps; step ps. The harmonic quantum factor is
    in it: n(w) a(w) ~ w^2 C(w), the spectrum of d mu / dt (Ramirez et al., J. Chem. Phys. 121, 3973, 2004).
    """
    welch = Welch(step, resolution, len(dipole) - 1)
    welch.add(np.diff(np.asarray(dipole, dtype=float), axis=0) / step)
    return _centred_derivative(welch.result(), step, timestep)


def raman(
    polarizability: np.ndarray, step: float, *, timestep: float | None = None, resolution: float = 5.0
) -> tuple[Spectrum, Spectrum]:
    """Isotropic and anisotropic Raman line shapes (45 a^2 and 7 g^2 for unpolarised light at a right angle).

    polarizability [f, 3, 3] in any unit; from its time derivative, with the classical limit of the Bose factor.
    """
    tensor = np.asarray(polarizability, dtype=float)
    tensor = (tensor + tensor.transpose(0, 2, 1)) / 2
    mean = np.trace(tensor, axis1=1, axis2=2) / 3
    rest = tensor - mean[:, None, None] * np.eye(3)
    found = []
    for series, factor in ((mean[:, None], 45.0), (rest.reshape(len(rest), 9), 7 * 1.5)):
        welch = Welch(step, resolution, len(series) - 1)
        welch.add(np.diff(series, axis=0) / step)
        one = _centred_derivative(welch.result(), step, timestep)
        found.append(Spectrum(one.wavenumber, factor * one.intensity, None, one.resolution, one.segments))
    return found[0], found[1]


def _centred_derivative(spectrum: Spectrum, step: float, timestep: float | None) -> Spectrum:
    """A difference over a time step has (2/dt) sin(w dt/2) where the derivative has w."""
    w = 2 * math.pi * CM_PS * spectrum.wavenumber
    half = w * step / 2
    factor = np.divide(half, np.sin(half), out=np.ones_like(half), where=half > 1e-9) ** 2
    error = None if spectrum.error is None else spectrum.error * factor
    exact = Spectrum(spectrum.wavenumber, spectrum.intensity * factor, error, spectrum.resolution, spectrum.segments)
    return exact if timestep is None else stretched(exact, timestep)


def peaks(spectrum: Spectrum, most: int = 12, least: float = 0.03) -> np.ndarray:
    """Wavenumbers of the highest maxima (parabola through three points), in order; above `least` of the highest."""
    from scipy.signal import find_peaks

    y = spectrum.intensity
    apart = max(1, round(spectrum.resolution / (spectrum.wavenumber[1] - spectrum.wavenumber[0])))
    at, _ = find_peaks(y, height=least * y.max(), distance=apart)
    at = at[(at > 0) & (at < len(y) - 1)]
    at = at[np.argsort(y[at])[::-1][:most]]
    left, middle, right = y[at - 1], y[at], y[at + 1]
    shift = 0.5 * (left - right) / np.minimum(left - 2 * middle + right, -1e-300)
    step = np.where(shift > 0, spectrum.wavenumber[at + 1] - spectrum.wavenumber[at],
                    spectrum.wavenumber[at] - spectrum.wavenumber[at - 1])  # fmt: skip
    return np.sort(spectrum.wavenumber[at] + shift * step)


def integral(spectrum: Spectrum) -> float:
    """Over all wavenumbers."""
    return float(np.trapezoid(spectrum.intensity, spectrum.wavenumber))
