"""What the openmm-ml plug-in does: adds our force to the Systems that openmm-ml makes."""

from collections.abc import Iterable
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl

from mace_md.errors import InputError
from mace_md.md.forces.model import make_force

_OF_EMBEDDINGS = {"mlLongRange", "linkAtomDistances"}  # openmm-ml hands its own arguments through
_INPUTS = {"charge", "spin", "multiplicity"}
_PRECISIONS = {None: None, "single": "float32", "double": "float64"}


class MaceMDPotentialImpl(MLPotentialImpl):
    """Adds our force to a System. See `addForces` for the arguments that createSystem and createMixedSystem take."""

    def __init__(self, model: Any, head: str | None) -> None:
        self.model = model
        self.head = head

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        precision: str | None = None,
        kernels: str = "auto",
        backend: str = "python",
        device: str | None = None,
        **args: Any,
    ) -> None:
        """Add the force for `atoms` (all for None) to `system`.

        charge, spin: total charge (e) and multiplicity 2S + 1 of `atoms`, for models that use them; multiplicity is
        another name of spin. precision: "single" or "double"; the model's own by default. kernels, device: see
        `make_force`. backend: "python" by default, since openmm-ml copies forces (for interpolation) and its users
        serialise Systems, and a TorchForce crashes at either; "torchforce" is faster for small systems. Raises
        InputError for an argument it does not know.
        """
        unknown = sorted(set(args) - _OF_EMBEDDINGS - _INPUTS)
        if unknown:
            raise InputError(
                f"unknown argument {', '.join(unknown)}; known are precision, kernels, backend, device, charge, spin"
            )
        if precision not in _PRECISIONS:
            raise InputError(f"precision is 'single' or 'double', not {precision!r}")
        periodic = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        force = make_force(
            topology,
            self.model,
            periodic=periodic,
            atoms=None if atoms is None else list(atoms),
            backend=backend,
            kernels=kernels,
            dtype=_PRECISIONS[precision],
            head=self.head,
            device=device,
            charge=args.get("charge"),
            spin=args.get("spin", args.get("multiplicity")),
            force_group=forceGroup,
        )
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """A MACE sees nothing beyond its cutoffs: a periodic MM system keeps its long-range electrostatics."""
        return False
