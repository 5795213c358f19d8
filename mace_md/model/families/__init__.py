"""Families of models: what each is made of, what it needs beside a structure, and what it gives.

A family is a subclass of `MACE` with the same layers. The contract, which `mace_md.model.families.checks.check_model`
tests: `atomic_numbers`, `r_max`, `atomic_energies` (E0s), `inputs` ("charge", "spin": what `settle` fixes), `forward`
(total energies of the systems of a graph) and, for simulations, either `node_energies` (everything within r_max) or,
where `long_range` is True, `energies` (positions and box too).
"""

from __future__ import annotations

from dataclasses import dataclass

from mace_md.model.families.dipoles import DipoleMACE
from mace_md.model.families.latent_ewald import LatentEwaldMACE
from mace_md.model.families.polar import PolarMACE
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.irreps import SymmetricBasis
from mace_md.model.mace import MACE


@dataclass(frozen=True)
class Family:
    """What is known of a family without a model of it."""

    name: str  # of `ModelConfig.family`
    model: type[MACE]
    gives: tuple[str, ...]  # of "energy", "dipole", "polarizability", "charges", "born_charges"
    range: str  # of its energies
    kernels: str  # what computes them in a simulation


FAMILIES = {
    family.name: family
    for family in (
        Family("energy", MACE, ("energy",), "the cutoff of each layer", "native, or PyTorch for other shapes"),
        Family("latent-ewald", LatentEwaldMACE, ("energy", "charges", "born_charges"), "long (latent charges)",
               "PyTorch"),
        Family("dipole", DipoleMACE, ("dipole",), "no energy", "PyTorch"),
        Family("energy-dipole", DipoleMACE, ("energy", "dipole"), "the cutoff of each layer", "PyTorch"),
        Family("dielectric", DipoleMACE, ("dipole", "polarizability", "charges"), "no energy", "PyTorch"),
        Family("polar", PolarMACE, ("energy", "dipole", "charges"), "long (charges and dipoles)", "PyTorch"),
    )
}  # fmt: skip


def make_model(config: ModelConfig, bases: list[SymmetricBasis] | None = None) -> MACE:
    """The model of the family that `config` names, with random weights."""
    return FAMILIES[config.family].model(config, bases)


def gives_energy(model: object) -> bool:
    """Whether a model can drive a simulation."""
    return not isinstance(model, DipoleMACE) or model.family == "energy-dipole"
