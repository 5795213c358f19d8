"""Diffusion of the molecules of a run."""

import numpy as np

from mace_md.analysis import diffusion
from mace_md.analysis.geometry import Unwrapper
from mace_md.analysis.observables.observer import Observer, Series, System, View
from mace_md.analysis.results import Curve, Figure, Quantity, Result
from mace_md.analysis.statistics import TooShort
from mace_md.errors import InputError

STRONG_FRICTION = 0.1  # 1/ps; a Langevin bath stronger than this slows diffusion noticeably
DRIFTED = 0.1  # nm


class Msd(Observer):
    """Mean square displacement of the centres of the molecules of each kind, and D."""

    name, only_window = "diffusion", True

    def __init__(self, system: System, viscosity: float | None = None) -> None:
        """viscosity : mPa s, for the correction of the finite size of the box."""
        super().__init__(system)
        self._viscosity, self._series, self._unwrapper = viscosity, Series(), Unwrapper()
        self._lengths: list[float] = []
        self._last_time: float | None = None

    def add(self, view: View) -> None:
        self._series.add(view.times, self._unwrapper.add(view.centres, view.boxes).astype(np.float32))
        if view.boxes is not None:
            self._lengths.append(float(np.abs(np.linalg.det(view.boxes)).mean() ** (1 / 3)))

    def result(self) -> Result:
        times, way = self._series.times, self._series.rows
        if len(times) < 2:
            raise InputError("diffusion: there are no two frames in the window")
        molecules, masses = self.system.molecules, self.system.masses
        totals = np.bincount(molecules.index, masses)
        way, drifted = diffusion.without_drift(np.asarray(way, dtype=float), totals)
        result = Result("diffusion", "Diffusion", cite=("mdtraj", "unwrap"))
        result.method = (
            "Einstein: slope of the mean square displacement of the centres of molecules over 6, followed through the "
            "boundaries in fractions of the box, without the motion of the whole; the spread between groups of "
            "molecules is the error (that of a straight-line fit would be far too small)."
        )
        if drifted > DRIFTED:
            result.warnings.append(
                f"everything together moved by {10 * drifted:.1f} Å: that is no diffusion, and was taken off"
            )
        self._thermostat(result)
        curves = []
        for kind in dict.fromkeys(molecules.kinds):
            chosen = np.flatnonzero([name == kind for name in molecules.kinds])
            curves += self._of_kind(result, kind, times, way[:, chosen])
        result.figures.append(
            Figure("msd", "Mean square displacement", "lag / ps", "MSD / Å²", tuple(curves), y_zero=True,
                   alt="Mean square displacement of molecules against the lag time; dashed: the fit")
        )  # fmt: skip
        return result

    def _of_kind(self, result: Result, kind: str, times: np.ndarray, way: np.ndarray) -> list[Curve]:
        window = self.system.window.pair
        key = f"diffusion_{kind}"
        label = f"D of {kind}"
        try:
            found = diffusion.einstein(times, way)
        except TooShort as short:
            result.quantities.append(Quantity(key, label, "1e-5 cm²/s", None, None, window, str(short)))
            return []
        d = found.d.scaled(diffusion.NM2_PS_TO_CM2_S * 1e5)
        remark = f"{way.shape[1]} molecules, lags {found.fit[0]:.3g} to {found.fit[1]:.3g} ps, {found.parts}"
        half = len(found.lag) // 2
        curve = Curve(kind, found.lag[:half], 100 * found.msd[:half])
        result.table |= {"lag_ps": found.lag[:half], f"msd_{kind}_A2": 100 * found.msd[:half]}
        low, high = diffusion.LINEAR
        if not low < found.exponent < high:
            why = (
                f"no diffusion: the mean square displacement grows as t^{found.exponent:.2f} and not as t in that range"
                + ("; a longer run may reach it" if found.exponent > 0.2 else ", as of something that stays in place")
            )
            result.quantities.append(Quantity(key, label, "1e-5 cm²/s", None, None, window, why, remark))
            return [curve]
        result.quantities.append(Quantity(key, label, "1e-5 cm²/s", d, d.value, window, None, remark))
        self._finite_size(result, kind, d)
        line = np.array(found.fit)
        start = float(np.interp(line[0], found.lag, found.msd))
        fit = Curve(f"{kind}, fit", line, 100 * (start + 6 * found.d.value * (line - line[0])), style="dashed")
        return [curve, fit]

    def _finite_size(self, result: Result, kind: str, d) -> None:
        T = self.system.source.temperature or self._temperature()
        if not self._lengths or T is None:
            return
        length = float(np.mean(self._lengths))
        if self._viscosity is None:
            one = diffusion.finite_size_correction(T, 1.0, length) * diffusion.NM2_PS_TO_CM2_S * 1e5
            result.warnings.append(
                f"D of {kind} is that of this box: an infinite one has about {one:.2f}e-5 cm²/s more, divided by the "
                "viscosity in mPa s (--viscosity; Yeh and Hummer)"
            )
            return
        more = diffusion.finite_size_correction(T, self._viscosity, length) * diffusion.NM2_PS_TO_CM2_S * 1e5
        corrected = d._replace(value=d.value + more)
        result.quantities.append(
            Quantity(
                f"diffusion_{kind}_infinite", f"D of {kind}, infinite box", "1e-5 cm²/s", corrected, corrected.value,
                self.system.window.pair, None, f"+{more:.3g} for a viscosity of {self._viscosity:g} mPa s",
            )
        )  # fmt: skip
        result.cite += ("yeh",)

    def _temperature(self) -> float | None:
        log = self.system.source.log
        return float(np.nanmean(log["temperature_K"])) if "temperature_K" in log else None

    def _thermostat(self, result: Result) -> None:
        options = self.system.source.options
        if options.get("ensemble") in ("nvt", "npt") and options.get("thermostat", "langevin") == "langevin":
            friction = float(options.get("friction", 1.0))
            if friction > STRONG_FRICTION:
                result.warnings.append(
                    f"a Langevin thermostat of {friction:g} 1/ps slows diffusion: for D, run at constant energy or "
                    "with --thermostat bussi --friction 0.1"
                )
        if options.get("hydrogen_mass") is not None:
            result.warnings.append(
                "heavier hydrogen (--hydrogen-mass) changes diffusion, that of water by some percent"
            )
        if int(options.get("beads", 1)) > 1:
            result.warnings.append("these are the centroids of a path integral: their diffusion is approximate")
