"""`mace-md export`: a model and a structure become one TorchScript file, potential.pt."""

import logging

from mace_md.config import ExportConfig
from mace_md.errors import InputError
from mace_md.model.artifact import PotentialInfo, export_potential
from mace_md.model.reading.checkpoint import load_model
from mace_md.structures import preflight
from mace_md.structures.structure import read_structure

log = logging.getLogger("mace_md")


def main(config: ExportConfig) -> int:
    """Write the potential and say what is in it. Raises InputError; leaves no file behind when it does."""
    if config.output.exists() and not config.force:
        raise InputError(f"{config.output} exists. Give another --output, or --force to replace it.")
    structure = read_structure(
        config.structure,
        periodic=config.periodic,
        box=config.box,
        coordinates_file=config.coordinates,
        include=config.include,
        virtual_sites=config.virtual_sites,
        complete=config.hydrogens == "check",
    )
    if config.hydrogens == "check":
        preflight.check_hydrogens(structure)
    notes = preflight.check_contacts(structure)
    model = load_model(config.model, head=config.head, dtype=config.dtype)
    preflight.check_elements(structure, model.atomic_numbers.tolist(), config.model)
    notes += preflight.check_box(structure, float(model.r_max), npt=False)
    for note in (*structure.notes, *notes):
        log.info("structure: %s", note)
    inputs = {name: getattr(config, name) for name in ("charge", "spin")}
    for name, value in inputs.items():
        inputs[name] = getattr(structure, name) if value is None and name in model.inputs else value
    info = export_potential(
        model,
        structure.atomic_numbers,
        config.output,
        periodic=structure.box is not None,
        skin=config.skin,
        kernels=config.kernels,
        **inputs,
        positions=structure.positions,
        box=structure.box,
        overwrite=config.force,
    )
    for line in describe(info):
        log.info("%s", line)
    log.info("written: %s, %.1f MB", config.output, config.output.stat().st_size / 1e6)
    return 0


def describe(info: PotentialInfo) -> list[str]:
    """Lines for people on what a potential file holds."""
    inputs = [f"{key} {value:g}" for key, value in (("charge", info.charge), ("spin", info.spin)) if value is not None]
    return [
        f"model: {info.model_name}, head {info.head}, {info.level_of_theory}, dispersion {info.dispersion}",
        *([f"model: {', '.join(inputs)}, fixed in the file"] if inputs else []),
        f"licence: {info.licence}",
        f"potential: {len(info.atomic_numbers)} atoms, {'periodic' if info.periodic else 'not periodic'}, "
        f"cutoff {info.r_max:g} A, skin {info.skin:g} A, {info.dtype}, {info.kernels} kernels",
        f"energy of the isolated atoms, not in the potential: {info.e0_sum:.6f} kJ/mol",
    ]
