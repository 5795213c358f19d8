"""The OpenMM System: masses, the force, the molecules, and what else the ensemble needs."""

from collections.abc import Iterable

import numpy as np
import openmm
from openmm import app

from mace_md.errors import InputError
from mace_md.md.dynamics.masses import masses_of

CM_REMOVAL_INTERVAL = 10  # steps


def make_system(
    topology: app.Topology,
    model,
    *,
    masses: np.ndarray | None = None,
    barostat: openmm.Force | None = None,
    remove_cm_motion: bool = False,
    **force_options,
) -> openmm.System:
    """A System with the masses of the elements, the force, and the molecules OpenMM can only learn from bonds.

    Parameters
    ----------
    topology : its bonds define the molecules; its box vectors, when it has them, the box.
    model : a MACE model, the path of one or of a potential, or a ready openmm.Force.
    masses : [n_atoms] Da, by default those of the elements; 0 for atoms that do not move.
    barostat : at most one, added once; needs a box.
    remove_cm_motion : add a CMMotionRemover. Right for Nose-Hoover alone, which counts 3 degrees of freedom less when
        it sees one; a Langevin bath moves the centre of mass on purpose, Verlet and velocity rescaling keep it at rest.
    force_options : passed on to `make_force`.
    """
    system = openmm.System()
    for mass in masses_of(topology) if masses is None else masses:
        system.addParticle(float(mass))
    vectors = topology.getPeriodicBoxVectors()
    if vectors is not None:
        system.setDefaultPeriodicBoxVectors(*vectors)
    if not isinstance(model, openmm.Force):
        from mace_md.md.forces.model import make_force

        model = make_force(topology, model, **force_options)
    system.addForce(model)
    system.addForce(molecule_bonds((a.index, b.index) for a, b in topology.bonds()))
    if barostat is not None:
        if vectors is None:
            raise InputError("a barostat needs a periodic box, and this structure has none. Give --box a,b,c.")
        system.addForce(barostat)
    if remove_cm_motion:
        system.addForce(openmm.CMMotionRemover(CM_REMOVAL_INTERVAL))
    return system


def molecule_bonds(pairs: Iterable[tuple[int, int]]) -> openmm.HarmonicBondForce:
    """Bonds of strength zero: OpenMM joins bonded particles into molecules, which it wraps and scales as one.

    Without them every atom counts as a molecule, and a barostat stretches each chemical bond.
    """
    bonds = openmm.HarmonicBondForce()
    bonds.setName("molecules (no energy)")
    for i, j in pairs:
        bonds.addBond(i, j, 0.0, 0.0)
    return bonds


def count_barostats(system: openmm.System) -> int:
    """How many barostats act on the system; more than one samples no known ensemble."""
    return sum("Barostat" in type(force).__name__ for force in system.getForces())
