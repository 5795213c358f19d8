"""Vibrational density of states, infrared and Raman spectra, and the dielectric constant of a run."""

from pathlib import Path

import numpy as np

from mace_md.analysis import dipoles, spectra
from mace_md.analysis.diffusion import even_step
from mace_md.analysis.observables.observer import Observer, Series, System, View
from mace_md.analysis.results import Curve, Figure, Quantity, Result, measured
from mace_md.errors import InputError

SHOWN = (0.0, 4500.0)  # 1/cm
LIGHT_HYDROGEN = 1.2  # Da; heavier has other vibrations


def _timestep(system: System) -> float | None:
    """Of the leapfrog integrators, which all of a run are; fs."""
    return system.source.timestep


def _said(system: System, spectrum: spectra.Spectrum, result: Result) -> str:
    timestep = _timestep(system)
    text = f"Resolution {spectrum.resolution:.3g} cm⁻¹, {spectrum.segments} overlapping segments under Hann windows. "
    if timestep is None:
        return text + "The time step of the integrator is not known, so its shift of frequencies is still there."
    seen = 3500.0
    moved = seen - float(spectra.leapfrog_corrected(np.array([seen]), timestep)[0])
    text += (
        f"A leapfrog step of {timestep:g} fs makes vibrations too fast; that is taken back exactly "
        f"(a line seen at 3500 by {moved:.0f} cm⁻¹)."
    )
    friction = system.source.options.get("friction")
    if system.source.options.get("thermostat") == "langevin" and friction and float(friction) > 0.1:
        result.warnings.append(
            f"a Langevin thermostat of {float(friction):g} 1/ps makes lines {float(friction) * 5.3:.1f} cm⁻¹ wider; "
            "for spectra, run at constant energy"
        )
    if int(system.source.options.get("beads", 1)) > 1:
        result.warnings.append(
            "these are the centroids of a path integral, whose vibrations are not quite the quantum ones"
        )
    return text


def refuse_heavy_hydrogen(system: System) -> None:
    """Raise InputError where hydrogen was made heavier: its lines are not those of any hydrogen."""
    mass = system.source.options.get("hydrogen_mass")
    if mass is not None and float(mass) > LIGHT_HYDROGEN:
        raise InputError(
            f"spectra: this run has hydrogen of {float(mass):g} Da (--hydrogen-mass), whose lines are not those of "
            "light hydrogen: run without it"
        )


def _spectrum_figure(name: str, title: str, label: str, curves: list[Curve], alt: str) -> Figure:
    return Figure(name, title, "wavenumber / cm⁻¹", label, tuple(curves), x_range=SHOWN, y_zero=True, alt=alt)


class Vdos(Observer):
    """Vibrational density of states, and the part of each element."""

    name, only_window, velocities = "vdos", True, True

    def __init__(self, system: System, resolution: float = 5.0) -> None:
        """resolution : 1/cm."""
        super().__init__(system)
        refuse_heavy_hydrogen(system)
        if system.source.velocity_file is None:
            raise InputError(
                "vdos: there are no velocities. A run writes them with --trajectory-format trr --trajectory-data "
                "velocities and a --trajectory-interval of 2 fs"
            )
        self._resolution = resolution
        self._welch: dict[str, spectra.Welch] = {}
        self._kinetic, self._frames, self._last = 0.0, 0, None
        self._pending: list[View] = []

    def add(self, view: View) -> None:
        times = view.times if self._last is None else np.r_[self._last, view.times]
        if len(times) > 1:
            step = even_step(times)
            if not self._welch:
                spectra.refuse_coarse(step, "vdos")
                frames = round((self.system.window.end - view.times[0]) / step) + 1
                elements = dict.fromkeys(self.system.symbols)
                self._welch = {symbol: spectra.Welch(step, self._resolution, frames) for symbol in elements}
        elif not self._welch:
            self._pending.append(view)
            return
        for one in [*self._pending, view]:
            self._add(one)
        self._pending = []
        self._last = float(view.times[-1])

    def _add(self, view: View) -> None:
        masses, velocities = self.system.masses, view.velocities.astype(np.float64)
        self._kinetic += float((velocities**2).sum(axis=2).sum(axis=0) @ masses)
        self._frames += len(view)
        for symbol, welch in self._welch.items():
            chosen = self.system.symbols == symbol
            welch.add(velocities[:, chosen].reshape(len(view), -1), np.repeat(masses[chosen], 3), keep_mean=True)

    def result(self) -> Result:
        if not self._frames:
            raise InputError("vdos: there are no two frames in the window")
        degrees = 3 * int((self.system.masses > 0).sum())
        temperature = self._kinetic / self._frames / degrees / spectra.BOLTZMANN_KJ_MOL_K
        parts = {
            symbol: spectra.as_density_of_states(welch.result(), temperature, _timestep(self.system))
            for symbol, welch in self._welch.items()
        }
        total = _sum(list(parts.values()))
        result = Result("vdos", "Vibrational density of states", cite=("welch",))
        result.method = _said(self.system, total, result) + (
            f" From mass-weighted velocities; the integral is {spectra.integral(total):.1f}, of {degrees} degrees of "
            "freedom."
        )
        curves = [Curve("all", total.wavenumber, total.intensity, None if total.error is None else 2 * total.error)]
        curves += [Curve(symbol, part.wavenumber, part.intensity) for symbol, part in parts.items() if len(parts) > 1]
        result.figures.append(
            _spectrum_figure("vdos", "Vibrational density of states", "modes / cm⁻¹", _thinned(curves),
                             "Density of states against wavenumber")
        )  # fmt: skip
        _list_peaks(result, total, self.system)
        result.quantities.append(
            Quantity("vdos_integral", "Integral of the density of states", "", None, spectra.integral(total),
                     self.system.window.pair, None, f"{degrees} degrees of freedom")
        )  # fmt: skip
        below = total.wavenumber <= SHOWN[1]
        result.table = {"wavenumber_1_cm": total.wavenumber[below], "modes_cm": total.intensity[below]}
        result.table |= {f"modes_cm_{symbol}": part.intensity[below] for symbol, part in parts.items()}
        return result


def _sum(parts: list[spectra.Spectrum]) -> spectra.Spectrum:
    errors = [part.error for part in parts]
    error = None if any(one is None for one in errors) else np.sqrt(sum(one**2 for one in errors))
    first = parts[0]
    total = sum(part.intensity for part in parts)
    return spectra.Spectrum(first.wavenumber, total, error, first.resolution, first.segments)


def _thinned(curves: list[Curve], most: int = 3000) -> list[Curve]:
    found = []
    for curve in curves:
        below = curve.x <= SHOWN[1]
        step = max(1, int(below.sum()) // most)
        error = None if curve.error is None else curve.error[below][::step]
        found.append(Curve(curve.label, curve.x[below][::step], curve.y[below][::step], error))
    return found


def _list_peaks(result: Result, spectrum: spectra.Spectrum, system: System) -> None:
    at = spectra.peaks(spectrum)
    at = at[(at > 50) & (at < SHOWN[1])]
    if len(at):
        result.quantities.append(
            Quantity(f"{result.name}_highest", "Highest line", "cm⁻¹", None,
                     float(at[np.argmax(np.interp(at, spectrum.wavenumber, spectrum.intensity))]), system.window.pair,
                     None, "lines at " + ", ".join(f"{x:.0f}" for x in at))
        )  # fmt: skip


class Dipole(Observer):
    """The dipole of each frame, from fixed charges; what `Infrared` and `Dielectric` are made of."""

    name, only_window = "dipole", True

    def __init__(self, system: System, charges: Path | None = None, file: Path | None = None) -> None:
        """charges : CSV file of fixed charges. file : npz that a model wrote; dipoles.npz of the run by default."""
        super().__init__(system)
        beside = None if system.source.folder is None else system.source.folder / "dipoles.npz"
        file = file or (beside if charges is None and beside is not None and beside.exists() else None)
        if charges is None and file is None:
            raise InputError(
                "infrared and dielectric constant: there are no dipoles. Give fixed charges (--charges FILE.csv), or "
                "the dipoles of a model (--dipoles FILE.npz)"
            )
        self._charges = None if charges is None else dipoles.read_charges(charges, system.topology)
        self.said = f"fixed charges of {charges.name}" if charges else f"the dipoles of a model ({file.name})"
        self._series, self._volumes = Series(), Series()
        self.polarizability = None
        if file is not None and charges is None:
            times, moment, polarizability = dipoles.read_dipoles(file)
            inside = system.window.inside(times)
            self._series.add(times[inside], moment[inside])
            self.polarizability = None if polarizability is None else polarizability[inside]

    def add(self, view: View) -> None:
        if self._charges is not None:
            moment = dipoles.dipoles_of_charges(view.whole, self._charges, self.system.molecules.index)
            self._series.add(view.times, moment)
        if view.boxes is not None:
            self._volumes.add(view.times, np.abs(np.linalg.det(view.boxes)))

    @property
    def times(self) -> np.ndarray:
        return self._series.times

    @property
    def moments(self) -> np.ndarray:
        """[f, 3] e nm."""
        return self._series.rows

    @property
    def volume(self) -> float | None:
        """Mean, nm^3."""
        rows = self._volumes.rows
        return float(rows.mean()) if len(rows) else None


class Infrared(Dipole):
    """Infrared spectrum; and Raman where the file has polarisabilities."""

    name = "ir"

    def __init__(self, system: System, charges: Path | None = None, file: Path | None = None, resolution: float = 5.0):
        refuse_heavy_hydrogen(system)
        super().__init__(system, charges, file)
        self._resolution = resolution

    def result(self) -> Result:
        step = even_step(self.times)
        spectra.refuse_coarse(step, "ir")
        found = spectra.infrared(self.moments, step, timestep=_timestep(self.system), resolution=self._resolution)
        found = _normalised(found)
        result = Result("ir", "Infrared spectrum", cite=("ramirez",))
        result.method = (
            f"Dipoles: {self.said}. Power of their time derivative, which has the harmonic quantum factor in it; "
            "intensities are relative. " + _said(self.system, found, result)
        )
        result.figures.append(
            _spectrum_figure("ir", "Infrared spectrum", "absorption (relative)",
                             _thinned([Curve("IR", found.wavenumber, found.intensity)]), "Infrared spectrum")
        )  # fmt: skip
        _list_peaks(result, found, self.system)
        below = found.wavenumber <= SHOWN[1]
        result.table = {"wavenumber_1_cm": found.wavenumber[below], "absorption": found.intensity[below]}
        return result


class Raman(Dipole):
    """Raman spectrum, where the file of dipoles has polarisabilities."""

    name = "raman"

    def __init__(self, system: System, charges: Path | None = None, file: Path | None = None, resolution: float = 5.0):
        refuse_heavy_hydrogen(system)
        super().__init__(system, None, file)
        self._resolution = resolution
        if self.polarizability is None:
            raise InputError("raman: the file of dipoles has no polarisabilities")

    def result(self) -> Result:
        step = even_step(self.times)
        spectra.refuse_coarse(step, "raman")
        parts = spectra.raman(self.polarizability, step, timestep=_timestep(self.system), resolution=self._resolution)
        highest = max(float((parts[0].intensity + parts[1].intensity).max()), 1e-300)
        result = Result("raman", "Raman spectrum", cite=("welch",))
        result.method = (
            f"Polarisabilities: {self.said}. Isotropic and anisotropic parts, from the time derivative; intensities "
            "are relative. " + _said(self.system, parts[0], result)
        )
        curves = [Curve(label, part.wavenumber, part.intensity / highest)
                  for label, part in zip(("isotropic", "anisotropic"), parts, strict=True)]  # fmt: skip
        result.figures.append(
            _spectrum_figure("raman", "Raman spectrum", "intensity (relative)", _thinned(curves), "Raman spectrum")
        )
        _list_peaks(result, _sum(list(parts)), self.system)
        below = parts[0].wavenumber <= SHOWN[1]
        result.table = {"wavenumber_1_cm": parts[0].wavenumber[below]} | {
            curve.label: curve.y[below] for curve in curves
        }
        return result


class Dielectric(Dipole):
    """Dielectric constant from the fluctuation of the dipole of the box."""

    name = "dielectric"

    def result(self) -> Result:
        T, volume = self.system.source.temperature, self.volume
        if T is None or volume is None:
            raise InputError("dielectric constant: that of a box with a thermostat (--ensemble nvt or npt)")
        moments = self.moments
        result = Result("dielectric", "Dielectric constant", cite=("neumann",))
        result.method = f"Fluctuation of the dipole of the box, with conducting surroundings; {self.said}."
        squares = float(((moments - moments.mean(axis=0)) ** 2).sum(axis=1).mean())
        value = 1 + squares * 4 * np.pi * dipoles.COULOMB / (3 * volume * spectra.BOLTZMANN_KJ_MOL_K * T)
        result.quantities.append(
            measured("dielectric_constant", "Dielectric constant", "",
                     lambda: dipoles.dielectric_constant(moments, volume, T), value=value,
                     window=self.system.window.pair)
        )  # fmt: skip
        result.table = {"time_ps": self.times} | {f"dipole_{a}_eA": 10 * moments[:, k] for k, a in enumerate("xyz")}
        return result


def _normalised(spectrum: spectra.Spectrum) -> spectra.Spectrum:
    below = spectrum.wavenumber <= SHOWN[1]
    highest = max(float(spectrum.intensity[below].max()), 1e-300)
    error = None if spectrum.error is None else spectrum.error / highest
    return spectra.Spectrum(
        spectrum.wavenumber, spectrum.intensity / highest, error, spectrum.resolution, spectrum.segments
    )
