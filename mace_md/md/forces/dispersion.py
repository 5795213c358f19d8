"""D3(BJ) dispersion beside a model that lacks it, by the library simple-dftd3, as a force of OpenMM.

Grimme, Antony, Ehrlich and Krieg, J. Chem. Phys. 132, 154104 (2010); Grimme, Ehrlich and Goerigk, J. Comput. Chem. 32,
1456 (2011). Two-body terms, as in the D3(BJ) of most programs; parameters by functional are the library's.
"""

import re
from typing import Any

import numpy as np
import openmm
from openmm import unit

from mace_md.errors import InputError
from mace_md.units import ANGSTROM_TO_NM, BOHR_TO_ANGSTROM, EV_TO_KJ_MOL, HARTREE_TO_EV

DISPERSION_GROUP = 3
SMOOTHING = 0.1  # of the cutoff: over this last part the pair energies go to zero, so that forces have no steps
COORDINATION_CUTOFF = 40.0  # Bohr; the library's own default for counting neighbours
_BOHR = BOHR_TO_ANGSTROM * ANGSTROM_TO_NM  # nm
_HARTREE = HARTREE_TO_EV * EV_TO_KJ_MOL  # kJ/mol
# What in a level of theory says that dispersion is in it: D3(BJ), -D4, VV10, MBD, vdW-DF, wB97X-V, B97-3c, MP2, ...
_HAS_DISPERSION = re.compile(
    r"(?i)(-|\b)D[234](\b|\(|BJ)|VV10|MBD|\bTS\b|vdW|-V\b|-?3c\b|-rVV|\bXDM\b|GFN|xtb|CCSD|MP2"
)


class DispersionPotential:
    """What a PythonForce calls: a State in, energy (kJ/mol) and forces [n, 3] (kJ/mol/nm) out. Can be pickled."""

    def __init__(self, atomic_numbers: list[int], functional: str, cutoff: float, periodic: bool) -> None:
        """cutoff in A. Raises InputError when the library is missing or has no parameters for the functional."""
        self.atomic_numbers, self.functional = np.array(atomic_numbers, dtype=np.int32), functional
        self.cutoff, self.periodic = cutoff, periodic
        self._damping = _damping(functional)
        self._model: Any = None

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        positions = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)) / _BOHR
        lattice = None
        if self.periodic:
            lattice = np.array(state.getPeriodicBoxVectors().value_in_unit(unit.nanometer), dtype=float) / _BOHR
        found = self._at(positions, lattice).get_dispersion(self._damping, grad=True)
        return float(found["energy"]) * _HARTREE, -np.asarray(found["gradient"]) * (_HARTREE / _BOHR)

    def _at(self, positions: np.ndarray, lattice: np.ndarray | None):
        """The library's model of this geometry (Bohr)."""
        if self._model is None:
            from dftd3.interface import DispersionModel

            periodic = None if lattice is None else np.array([True, True, True])
            self._model = DispersionModel(self.atomic_numbers, positions, lattice, periodic)
            pairs = self.cutoff / BOHR_TO_ANGSTROM
            # The triples' cutoff is not used: there are no three-body terms.
            self._model.set_realspace_cutoff(pairs, COORDINATION_CUTOFF, COORDINATION_CUTOFF, width2=SMOOTHING * pairs)
        else:
            self._model.update(positions, lattice)
        return self._model

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._damping, self._model = _damping(self.functional), None


def dispersion_force(
    atomic_numbers: list[int], functional: str, *, cutoff: float, periodic: bool
) -> openmm.PythonForce:
    """D3(BJ) with the parameters of a functional ("pbe", "r2scan", ...) for all particles; cutoff in A.

    It does not depend on the model: whether the two belong together is for `choose_functional` to say.
    """
    force = openmm.PythonForce(DispersionPotential(atomic_numbers, functional, cutoff, periodic), {}, [])
    force.setUsesPeriodicBoundaryConditions(periodic)
    force.setForceGroup(DISPERSION_GROUP)
    force.setName("D3(BJ)")
    return force


def choose_functional(facts: dict[str, object], name: str, functional: str | None, *, missing: bool) -> str:
    """The functional whose parameters fit the model, or InputError where D3 must not, or cannot, be added.

    facts : of the model, with `level_of_theory` and `dispersion` ("included", "not included" or "unknown").
    functional : asked for, or None to take the one of the level of theory. missing : the user's word that the training
    data have no dispersion, which counts only where the model does not say.
    """
    theory, recorded = str(facts["level_of_theory"]), str(facts["dispersion"])
    if recorded == "included" or (recorded == "unknown" and theory != "unknown" and _HAS_DISPERSION.search(theory)):
        raise InputError(
            f"--dispersion d3bj: {name} was trained on {theory}, dispersion {recorded}: it would be counted twice. "
            "Leave --dispersion out."
        )
    if recorded == "unknown" and not missing:
        raise InputError(
            f"--dispersion d3bj: {name} does not say whether its training data include dispersion (level of theory: "
            f"{theory}). Where they do it would be counted twice. If you know that they do not, say so with "
            "--dispersion-missing yes."
        )
    if functional is None:
        if recorded == "by head":
            raise InputError(
                f"--dispersion d3bj: the heads of {name} were trained on several functionals. Give that of your head, "
                "if its data have no dispersion, such as --dispersion-functional pbe."
            )
        if theory == "unknown":
            raise InputError(
                f"--dispersion d3bj: the level of theory of {name} is unknown. Give the functional of its training "
                "data, such as --dispersion-functional pbe."
            )
        functional = theory.split("/")[0].split("+")[0].split("(")[0]
    functional = functional.strip().lower()
    _damping(functional)
    return functional


def _damping(functional: str):
    try:
        from dftd3.interface import RationalDampingParam
    except ImportError as error:
        raise InputError(
            f'--dispersion needs simple-dftd3 ({error}). Install it: pip install "mace-md[dispersion]"'
        ) from None
    try:
        return RationalDampingParam(method=functional, atm=False)
    except RuntimeError:
        raise InputError(
            f"--dispersion-functional {functional}: there are no D3(BJ) parameters for it. Examples: pbe, r2scan, "
            "revpbe, pbesol, pbe0, blyp, b3lyp, scan, hf."
        ) from None
