"""From the options to the structure a run starts from: read, complete, assemble, repeat, solvate."""

from mace_md.config import RunConfig
from mace_md.config.preparation import PreparationOptions
from mace_md.structures.formats import molfile
from mace_md.structures.formats.contents import Contents
from mace_md.structures.formats.reader import is_sdf, read_contents
from mace_md.structures.hydrogens import add_hydrogens
from mace_md.structures.solvent import Solvent, solvate
from mace_md.structures.structure import Structure, assemble
from mace_md.structures.supercell import repeat


def prepare(config: RunConfig) -> Structure:
    """The structure that `config` asks for; the same each time for the same `config.seed`. Raises InputError."""
    contents = _contents(config)
    solvated = config.solvate is not None
    periodic = "no" if solvated and contents.symmetry else config.periodic
    structure = assemble(contents, periodic=periodic, box=config.box)
    if config.supercell is not None:
        structure = repeat(structure, config.supercell)
    if solvated:
        structure = solvate(structure, _solvent(config), seed=config.seed)
    return structure


def _contents(config: RunConfig) -> Contents:
    if config.smiles is not None:
        return molfile.from_smiles(config.smiles, seed=config.seed)
    add = config.hydrogens == "add"
    contents = read_contents(
        config.structure,
        coordinates_file=config.coordinates,
        include=config.include,
        virtual_sites=config.virtual_sites,
        add_hydrogens=add,
        complete=config.hydrogens != "keep",
    )
    if add and not is_sdf(config.structure):  # there the valences say it
        contents = add_hydrogens(contents, ph=config.ph, repair=config.repair, seed=config.seed)
    return contents


def _solvent(config: PreparationOptions) -> Solvent:
    return Solvent(
        padding=config.solvate,
        shape=config.box_shape,
        concentration=config.ion_concentration,
        neutralize=config.neutralize == "yes",
        positive=config.positive_ion,
        negative=config.negative_ion,
        solute_charge=config.solute_charge,
    )
