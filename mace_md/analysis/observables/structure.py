"""Structures along a run: deviation from the start, radius of gyration, torsions and Ramachandran maps."""

import numpy as np

from mace_md.analysis import structure, torsions
from mace_md.analysis.geometry import Unwrapper, make_whole
from mace_md.analysis.observables.observer import Observer, Series, System, View
from mace_md.analysis.results import Curve, Figure, Quantity, Result, measured
from mace_md.analysis.statistics import mean_of
from mace_md.errors import InputError
from mace_md.units import BOLTZMANN_KJ_MOL_K


class Rmsd(Observer):
    """Of the heavy atoms of the solute after superposition; of a crystal, of all of them as they are."""

    name = "rmsd"

    def __init__(self, system: System, reference: np.ndarray | None = None, said: str = "the start of the run") -> None:
        """reference [n_atoms, 3] nm; that of the topology file by default, which is the start of a run."""
        super().__init__(system)
        heavy = system.solute[system.symbols[system.solute] != "H"]
        self._atoms = heavy if len(heavy) >= 3 or system.kind == "crystal" else system.solute
        self._said, self._crystal = said, system.kind == "crystal"
        if not self._crystal and len(self._atoms) < 3:
            raise InputError("rmsd: fewer than three atoms have no shape")
        start = system.source.start if reference is None else reference
        boxes = None if system.source.start_box is None else system.source.start_box[None]
        self._reference, self._boxes = start[None], boxes
        self._series, self._unwrapper = Series(), Unwrapper()
        if self._crystal:
            self._unwrapper.add(self._reference, boxes)
        else:
            self._reference = make_whole(self._reference, boxes, system.molecules)[0]

    def add(self, view: View) -> None:
        if self._crystal:
            way = self._unwrapper.add(view.positions, view.boxes)
            masses = self.system.masses
            way = way - np.einsum("fni,n->fi", way, masses)[:, None] / masses.sum()
            found = structure.displacement(way[:, self._atoms])
        else:
            found = structure.rmsd(view.whole[:, self._atoms], self._reference[self._atoms])
        self._series.add(view.times, found)

    def result(self) -> Result:
        times, values = self._series.times, 10 * self._series.rows
        inside = values[self.system.window.inside(times)]
        what = "displacement from the lattice" if self._crystal else "deviation after superposition"
        result = Result(
            "rmsd", "RMSD", cite=() if self._crystal else ("kabsch",),
            method=f"Root mean square {what} of {len(self._atoms)} heavy atoms from {self._said}"
            + ("; in fractions of the box, without the motion of the whole." if self._crystal else "."),
        )  # fmt: skip
        result.quantities.append(
            measured("rmsd", "RMSD", "Å", lambda: mean_of(inside), value=float(inside.mean()) if len(inside) else None,
                     window=self.system.window.pair)
        )  # fmt: skip
        result.figures.append(
            Figure("rmsd", "RMSD", "time / ps", "RMSD / Å", (Curve("RMSD", times, values),), y_zero=True,
                   alt=f"Root mean square {what} against time")
        )  # fmt: skip
        result.table = {"time_ps": times, "rmsd_A": values}
        return result


class Gyration(Observer):
    """Radius of gyration of the solute."""

    name = "gyration"

    def __init__(self, system: System) -> None:
        super().__init__(system)
        if len(set(system.molecules.index[system.solute])) != 1:
            raise InputError("radius of gyration: that of one molecule is meant, and there are several")
        self._series = Series()

    def add(self, view: View) -> None:
        atoms = self.system.solute
        self._series.add(view.times, structure.radius_of_gyration(view.whole[:, atoms], self.system.masses[atoms]))

    def result(self) -> Result:
        times, values = self._series.times, 10 * self._series.rows
        inside = values[self.system.window.inside(times)]
        result = Result("gyration", "Radius of gyration", method="Weighted by mass, all atoms of the solute.")
        result.quantities.append(
            measured("radius_of_gyration", "Radius of gyration", "Å", lambda: mean_of(inside),
                     value=float(inside.mean()) if len(inside) else None, window=self.system.window.pair)
        )  # fmt: skip
        result.figures.append(
            Figure("gyration", "Radius of gyration", "time / ps", "Rg / Å", (Curve("Rg", times, values),),
                   alt="Radius of gyration against time")
        )  # fmt: skip
        result.table = {"time_ps": times, "radius_of_gyration_A": values}
        return result


class Torsions(Observer):
    """Torsion angles, their populations, and Ramachandran maps."""

    name = "torsions"

    def __init__(self, system: System, wanted: tuple[str, ...] = ()) -> None:
        """wanted : backbone, bonds, or atoms such as 5-7-9-15; the backbone where there is one, else what turns."""
        super().__init__(system)
        found = (
            torsions.named_torsions(system.topology, wanted) if wanted else torsions.backbone_torsions(system.topology)
        )
        if not found:
            found = torsions.bond_torsions(system.topology, system.solute)
        if not found:
            raise InputError("torsions: nothing turns in this molecule")
        self._left = len(found) - torsions.MAX_TORSIONS if not wanted else 0
        self._torsions = found if wanted else found[: torsions.MAX_TORSIONS]
        self._quadruples = np.array([torsion.atoms for torsion in self._torsions])
        self._series = Series()

    def add(self, view: View) -> None:
        self._series.add(view.times, torsions.dihedrals(view.whole, self._quadruples))

    def result(self) -> Result:
        times, angles = self._series.times, self._series.rows
        inside = self.system.window.inside(times)
        kept = angles[inside]
        if not len(kept):
            raise InputError("torsions: there is no frame in the window")
        result = Result("torsions", "Torsions", method="Populations with the error of a correlated yes and no series.")
        if self._left > 0:
            result.warnings.append(f"{self._left} more torsions are not shown; name them with --torsions")
        maps = torsions.ramachandran(self._torsions)
        paired = {k for _, i, j in maps for k in (i, j)}
        for label, i, j in maps:
            self._map(result, label, kept[:, i], kept[:, j])
        for k, torsion in enumerate(self._torsions):
            if k not in paired:
                self._states(result, torsion.name, torsions.populations(kept[:, k]))
        curves = tuple(Curve(torsion.name, *torsions.histogram(kept[:, k])) for k, torsion in enumerate(self._torsions))
        result.figures.append(
            Figure("torsions", "Distribution of torsions", "angle / degree", "density / (1/degree)", curves[:6],
                   x_range=(-180, 180), y_zero=True, alt="Histograms of torsion angles")
        )  # fmt: skip
        result.figures.append(
            Figure("torsions-time", "Torsions along the run", "time / ps", "angle / degree",
                   tuple(Curve(torsion.name, times, angles[:, k], style="points")
                         for k, torsion in enumerate(self._torsions[:6])),
                   alt="Torsion angles against time")
        )  # fmt: skip
        result.table = {"time_ps": times} | {
            torsion.name.replace(",", ";"): angles[:, k] for k, torsion in enumerate(self._torsions)
        }
        return result

    def _map(self, result: Result, label: str, phi: np.ndarray, psi: np.ndarray) -> None:
        self._states(result, label, torsions.ramachandran_populations(phi, psi))
        edges = np.linspace(-180, 180, 37)
        counts, _, _ = np.histogram2d(phi, psi, (edges, edges))
        T = self.system.source.temperature
        values, said = counts / counts.sum(), "population"
        if T is not None and len(phi) >= 1000:
            values, said = torsions.free_energy(counts, BOLTZMANN_KJ_MOL_K * T), "F / (kJ/mol)"
        result.figures.append(
            Figure(f"ramachandran-{label.replace(' ', '')}", f"Ramachandran map of {label}", "φ / degree", "ψ / degree",
                   heat=(edges, edges, values), heat_label=said, alt=f"Map of phi and psi of {label}")
        )  # fmt: skip

    def _states(self, result: Result, name: str, states: dict[str, np.ndarray]) -> None:
        moves = torsions.transitions(states)
        for state, inside in states.items():
            share = float(inside.mean())
            if share == 0:
                continue
            key = f"{name}_{state}".replace(" ", "_")
            label = f"{name}: {state}"
            if moves < 10:
                why = f"{moves} changes of state in the window are too few for a population with an interval (10)"
                result.quantities.append(Quantity(key, label, "", None, share, self.system.window.pair, why))
                continue
            result.quantities.append(
                measured(key, label, "", lambda x=inside: torsions.population(x), value=share,
                         window=self.system.window.pair, remark=f"{moves} changes of state")
            )  # fmt: skip
