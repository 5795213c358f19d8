"""What the log of a run says: energies, temperature, density, box, and the fluctuations of them."""

import numpy as np

from mace_md.analysis import thermodynamics
from mace_md.analysis.observables.observer import System
from mace_md.analysis.results import Curve, Figure, Quantity, Result, measured
from mace_md.analysis.statistics import mean_of
from mace_md.errors import InputError
from mace_md.units import EV_TO_KJ_MOL


def column(system: System, name: str) -> np.ndarray:
    """A column of the log in the window; raises InputError where the log has none."""
    log, times = system.source.log, system.source.log.get("time_ps")
    if name not in log or not np.isfinite(log[name]).any():
        raise InputError(f"{system.source.name}: there is no {name} in its log.csv")
    return log[name][system.window.inside(times) & np.isfinite(log[name])]


def _series_figure(system: System, name: str, title: str, label: str, mean: float | None) -> Figure:
    log = system.source.log
    times, values = log["time_ps"], log[name]
    step = max(1, len(times) // 1500)
    curves = [Curve("of the log", times[::step], values[::step])]
    window = system.window
    if mean is not None:
        curves.append(Curve("mean", np.array(window.pair), np.array([mean, mean])))
    left_out = (float(times[0]), window.start) if window.start > times[0] else None
    return Figure(
        name, title, "time / ps", label, tuple(curves), shaded=left_out,
        alt=f"{title} against time, {times[0]:.4g} to {times[-1]:.4g} ps; shaded: left out as equilibration",
    )  # fmt: skip


def _of_column(system: System, key: str, name: str, label: str, unit: str, factor: float = 1.0) -> Quantity:
    values = column(system, name) * factor
    return measured(key, label, unit, lambda: mean_of(values), value=float(values.mean()), window=system.window.pair)


def energy(system: System) -> Result:
    """Potential, kinetic and total energy; the drift of what the integrator conserves."""
    result = Result("energy", "Energies", method="Means of the log; intervals from batches with Student's t.")
    for key, label in (("potential", "Potential energy"), ("kinetic", "Kinetic energy"), ("total", "Total energy")):
        result.quantities.append(_of_column(system, f"{key}_energy", f"{key}_kJ_mol", label, "kJ/mol"))
    log = system.source.log
    conserved = log.get("conserved_kJ_mol", np.zeros(0))
    kept = np.isfinite(conserved)
    if kept.sum() > 10:
        atoms = len(system.masses)
        slope = thermodynamics.drift(log["time_ps"][kept], conserved[kept])
        result.quantities.append(
            Quantity(
                "conserved_drift", "Drift of the conserved energy", "meV/atom/ps", None,
                slope / EV_TO_KJ_MOL / atoms * 1000, (float(log["time_ps"][0]), float(log["time_ps"][-1])),
                remark="slope of a straight line through the whole run",
            )
        )  # fmt: skip
    mean = result.quantities[0].value
    result.figures.append(_series_figure(system, "potential_kJ_mol", "Potential energy", "kJ/mol", mean))
    times = log["time_ps"]
    result.table = {"time_ps": times} | {
        name: log[name] for name in ("potential_kJ_mol", "kinetic_kJ_mol", "total_kJ_mol", "conserved_kJ_mol")
        if name in log
    }  # fmt: skip
    return result


def temperature(system: System) -> Result:
    """The kinetic temperature, and whether it is the thermostat's."""
    result = Result("temperature", "Temperature", method="Mean of the log's kinetic temperature.")
    found = _of_column(system, "temperature", "temperature_K", "Temperature", "K")
    target = system.source.temperature
    ramp = "target_temperature_K" in system.source.log
    if target is not None and found.mean is not None and not ramp:
        sigma = found.mean.sigma(target)
        if abs(sigma) > 4:
            result.warnings.append(
                f"the mean temperature {found.text()} is {abs(sigma):.1f} standard errors from the thermostat's "
                f"{target:g} K: the time step may be too long, or the run is not equilibrated"
            )
    result.quantities.append(found)
    result.figures.append(_series_figure(system, "temperature_K", "Temperature", "K", found.value))
    result.table = {name: system.source.log[name] for name in ("time_ps", "temperature_K")}
    return result


def density(system: System) -> Result:
    """Density and volume."""
    result = Result("density", "Density", method="Mean of the log: mass of all atoms over the volume of the box.")
    values = column(system, "density_g_mL")
    if np.ptp(values) == 0:
        result.quantities.append(
            Quantity("density", "Density", "g/mL", None, float(values[0]), system.window.pair, None, "fixed by the box")
        )
    else:
        result.quantities.append(_of_column(system, "density", "density_g_mL", "Density", "g/mL"))
        result.quantities.append(_of_column(system, "volume", "volume_nm3", "Volume", "nm³"))
        result.figures.append(_series_figure(system, "density_g_mL", "Density", "g/mL", result.quantities[0].value))
    result.table = {name: system.source.log[name] for name in ("time_ps", "volume_nm3", "density_g_mL")}
    return result


BOX = (("a", "nm", "Å", 10.0), ("b", "nm", "Å", 10.0), ("c", "nm", "Å", 10.0),
       ("alpha", "degree", "°", 1.0), ("beta", "degree", "°", 1.0), ("gamma", "degree", "°", 1.0))  # fmt: skip


def box_column(name: str, unit: str) -> str:
    """The column of the log with this length or angle of the box."""
    return f"box_{name}_{unit}"


def cell(system: System) -> Result:
    """Lengths and angles of the box, of runs whose box changes."""
    result = Result("cell", "Unit cell", method="Means of the box lengths and angles of the log.")
    log = system.source.log
    present = [row for row in BOX if box_column(*row[:2]) in log]
    if not present:
        raise InputError(
            f"{system.source.name}: its log.csv has no lengths of the box; runs of this version write them"
        )
    curves = []
    for name, unit, shown, factor in present:
        values = log[box_column(name, unit)]
        if np.ptp(values) > 0:
            result.quantities.append(
                _of_column(system, f"cell_{name}", box_column(name, unit), f"Cell {name}", shown, factor)
            )
            if unit == "nm":
                step = max(1, len(values) // 1500)
                curves.append(Curve(name, log["time_ps"][::step], values[::step] * factor))
        else:
            result.quantities.append(
                Quantity(f"cell_{name}", f"Cell {name}", shown, None, float(values[0]) * factor, remark="fixed")
            )
    if curves:
        result.figures.append(
            Figure("cell", "Cell lengths", "time / ps", "length / Å", tuple(curves),
                   alt="The three lengths of the box against time")
        )  # fmt: skip
    result.table = {"time_ps": log["time_ps"]} | {box_column(n, u): log[box_column(n, u)] for n, u, *_ in present}
    return result


def pressure(system: System) -> Result:
    """The mean of a pressure column of the log."""
    result = Result("pressure", "Pressure", method="Mean of the log's pressure.")
    result.quantities.append(_of_column(system, "pressure", "pressure_bar", "Pressure", "bar"))
    result.figures.append(_series_figure(system, "pressure_bar", "Pressure", "bar", result.quantities[0].value))
    result.table = {name: system.source.log[name] for name in ("time_ps", "pressure_bar")}
    return result


def heat_capacity(system: System) -> Result:
    """C_V of NVT from the energy, C_P of NPT from the enthalpy."""
    T, options = _bath(system), system.source.options
    total = column(system, "total_kJ_mol")
    constant = "C_V" if options.get("ensemble") == "nvt" else "C_P"
    if constant == "C_P":
        total = thermodynamics.enthalpy(total, column(system, "volume_nm3"), float(options.get("pressure", 1.0)))
    result = Result(
        "heat-capacity", "Heat capacity", cite=("allen",),
        method=f"{constant} from the fluctuation of the {'total energy' if constant == 'C_V' else 'enthalpy'}; "
        "classical: a stiff vibration counts a full k, which for water is about a third too much.",
    )  # fmt: skip
    count, kind = _per_molecule(system)
    unit = f"J/(mol K) per {kind}" if count > 1 else "J/(mol K)"
    value = float(total.var()) * 1e3 / (thermodynamics.BOLTZMANN_KJ_MOL_K * T**2) / count
    result.quantities.append(
        measured("heat_capacity", f"Heat capacity at constant {'volume' if constant == 'C_V' else 'pressure'}", unit,
                 lambda: thermodynamics.heat_capacity(total, T).scaled(1 / count), value=value,
                 window=system.window.pair)
    )  # fmt: skip
    return result


def compressibility(system: System) -> Result:
    """Isothermal compressibility and thermal expansion of NPT."""
    T = _bath(system)
    volume = column(system, "volume_nm3")
    if np.ptp(volume) == 0:
        raise InputError(
            f"{system.source.name}: the compressibility is that of a volume that fluctuates (--ensemble npt)"
        )
    energies = thermodynamics.enthalpy(
        column(system, "total_kJ_mol"), volume, float(system.source.options.get("pressure", 1.0))
    )
    result = Result(
        "compressibility", "Compressibility", cite=("allen",),
        method="From the fluctuation of the volume, and its correlation with the enthalpy.",
    )  # fmt: skip
    kT = thermodynamics.BOLTZMANN_KJ_MOL_K * T
    plain = float(volume.var()) / float(volume.mean()) / kT * thermodynamics.GPA_NM3_TO_KJ_MOL
    result.quantities += [
        measured("compressibility", "Isothermal compressibility", "1/GPa",
                 lambda: thermodynamics.compressibility(volume, T), value=plain, window=system.window.pair),
        measured("thermal_expansion", "Thermal expansion", "1e-4/K",
                 lambda: thermodynamics.thermal_expansion(volume, energies, T).scaled(1e4),
                 value=float(np.cov(volume, energies)[0, 1]) / float(volume.mean()) / (kT * T) * 1e4,
                 window=system.window.pair),
    ]  # fmt: skip
    return result


def _bath(system: System) -> float:
    T = system.source.temperature
    if T is None or "target_temperature_K" in system.source.log:
        raise InputError(
            f"{system.source.name}: fluctuations give this at the constant temperature of a thermostat (--ensemble nvt "
            "or npt, no ramp)"
        )
    if int(system.source.options.get("beads", 1)) > 1:
        raise InputError(f"{system.source.name}: fluctuations of a path integral need another estimator than these")
    return T


def _per_molecule(system: System) -> tuple[int, str]:
    kinds = system.molecules.kinds
    most = max(set(kinds), key=kinds.count)
    return (len(kinds), most) if len(set(kinds)) == 1 else (1, "")


LOG_OBSERVABLES = {
    "energy": energy, "temperature": temperature, "density": density, "cell": cell, "pressure": pressure,
    "heat-capacity": heat_capacity, "compressibility": compressibility,
}  # fmt: skip
