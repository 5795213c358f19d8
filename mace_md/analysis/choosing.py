"""What a system is, and which observables fit it when nobody says."""

import numpy as np

from mace_md.analysis.geometry import Molecules, repeats_itself
from mace_md.analysis.reading import Source

WATER = ("H2O",)
SMALL = 6  # copies of a solute up to which it is one, when something else is there in larger numbers
PROTEIN = {"N", "CA", "C"}

OF_THE_LOG = ("energy", "temperature")
FITTING = {
    "liquid": ("density", "rdf", "diffusion", "hbonds", "heat-capacity", "compressibility"),
    "solution": ("density", "rmsd", "gyration", "torsions", "rdf"),
    "crystal": ("density", "cell", "rmsd", "vdos"),
    "peptide": ("torsions", "rmsd", "gyration", "hbonds"),
    "molecule": ("torsions", "vdos"),
    "cluster": ("hbonds", "vdos"),
}
IF_THERE = ("pressure", "ir", "raman", "dielectric", "cell")  # taken where the run has what they need


def kind_of(source: Source, molecules: Molecules) -> tuple[str, np.ndarray]:
    """liquid, solution, crystal, peptide, molecule or cluster; and the atoms of the solute (all without one)."""
    everything = np.arange(source.topology.n_atoms)
    kinds = list(molecules.kinds)
    periodic = source.start_box is not None
    if periodic:
        numbers = np.array([0 if a.element is None else a.element.atomic_number for a in source.topology.atoms])
        if repeats_itself(numbers, source.start, source.start_box):
            return "crystal", everything
    common = max(set(kinds), key=lambda kind: (kinds.count(kind), kind))
    rare = [k for k, kind in enumerate(kinds) if kind != common and kinds.count(kind) <= SMALL]
    sizes = np.bincount(molecules.index)
    rare = [k for k in rare if sizes[k] > 1]
    if kinds.count(common) > 5 * max(1, len(rare)) and rare:
        largest = max(rare, key=lambda k: sizes[k])
        return "solution", np.flatnonzero(molecules.index == largest)
    if len(kinds) == 1:
        return ("peptide" if has_backbone(source.topology) else "molecule"), everything
    return ("liquid" if periodic else "cluster"), everything


def has_backbone(topology) -> bool:
    """Whether there is an amino acid residue."""
    return any({atom.name for atom in residue.atoms} >= PROTEIN for residue in topology.residues)


def fitting(source: Source, kind: str, molecules: Molecules) -> list[str]:
    """Names of the observables for a system of this kind, in the order of a report; each may still lack its data."""
    names = [name for name in OF_THE_LOG if source.log]
    for name in FITTING[kind]:
        if name in ("density", "cell", "heat-capacity", "compressibility") and not source.log:
            continue
        if name == "compressibility" and source.options.get("ensemble") != "npt":
            continue
        if name == "heat-capacity" and source.options.get("ensemble") not in ("nvt", "npt"):
            continue
        if name == "cell" and source.options.get("ensemble") != "npt":
            continue
        names.append(name)
    if kind == "solution" and not has_backbone(source.topology) and source.topology.n_atoms < 4:
        names.remove("torsions")
    if "pressure_bar" in source.log:
        names.insert(2, "pressure")
    if source.folder is not None and (source.folder / "dipoles.npz").exists():
        names += ["ir", "raman", "dielectric"]
    return names
