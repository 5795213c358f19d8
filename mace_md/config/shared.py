"""Options that several commands have, each declared once: a command's class takes what its function returns."""

from typing import Any

from mace_md.options.declare import option

ENERGY_UNITS, LENGTH_UNITS = ("eV", "meV", "kcal/mol", "kJ/mol", "Hartree"), ("A", "nm", "Bohr")


# ------------------------------------------------------------------------------------ the command line itself


def config(**meta: Any) -> Any:
    return option(None, cli_only=True, help="TOML file with any of these options", **meta, on_restart="free")


def quiet() -> Any:
    return option(False, cli_only=True, help="no progress on the terminal", on_restart="free")


def debug() -> Any:
    return option(False, cli_only=True, help="show the traceback of an error", on_restart="free")


def max_hours() -> Any:
    return option(
        None,
        unit="h",
        above=0,
        at_most=1e6,
        help="stop cleanly, with a checkpoint, after this wall time",
        shown_default="no limit",
        on_restart="free",
    )


# ------------------------------------------------------------------------------------ the model and where it computes


def model() -> Any:
    """Of the commands that take a model first. `mace-md run` has a default."""
    return option(
        help="model: a name of `mace-md models list`, or a .model or .mace file", positional=True, name_or_path=True
    )


def head() -> Any:
    return option(None, help="head of a model that has several")


def charge() -> Any:
    return option(
        None, help="total charge, for models that use it", unit="e", at_least=-10_000, at_most=10_000,
        shown_default="from the file, or 0",
    )  # fmt: skip


def spin() -> Any:
    return option(
        None, help="spin multiplicity 2S+1, for models that use it", at_least=1, at_most=10_000,
        shown_default="from the file, or 1",
    )  # fmt: skip


def dtype(default: str, **meta: Any) -> Any:
    return option(default, choices=("float32", "float64"), help="precision of the model", **meta)


def kernels() -> Any:
    return option(
        "auto",
        choices=("auto", "native", "reference"),
        help="native (compiled) kernels, the PyTorch reference, or native where they are built",
        on_restart="free",
    )


def device() -> Any:
    """Of the commands of torch alone; a run has OpenMM's --platform and --device-index."""
    return option(
        "auto", help="where to compute: cpu, cuda, cuda:1; auto takes a GPU if there is one", on_restart="free"
    )


def threads() -> Any:
    return option(None, at_least=1, at_most=1024, help="CPU threads", shown_default="all cores", on_restart="free")


# ------------------------------------------------------------------------------------ structures


def coordinates() -> Any:
    return option(
        None,
        help="coordinates of a topology without: inpcrd or rst7 of a prmtop, gro of a GROMACS top",
        on_restart="free",
    )


def include() -> Any:
    return option(None, help="folder of the force field files that a GROMACS top includes", on_restart="free")


def virtual_sites() -> Any:
    return option(
        "refuse", choices=("refuse", "drop"), help="massless sites of four- and five-site water: MACE knows nuclei only"
    )


def periodic(**meta: Any) -> Any:
    return option(
        "auto",
        choices=("auto", "yes", "no"),
        help="periodic boundaries; auto is yes when the structure has a box",
        **meta,
    )


def box() -> Any:
    return option(
        None,
        unit="A",
        above=0,
        at_most=1e6,
        count=(3, 6),
        help="box lengths a,b,c or a,b,c,alpha,beta,gamma (A and degrees)",
        shown_default="from the file",
    )


# ------------------------------------------------------------------------------------ labelled data


def key(what: str, shown_default: str, **meta: Any) -> Any:
    """The key of one of the labels."""
    return option(None, help=f"key of the {what}", shown_default=shown_default, **meta)


def config_type_key() -> Any:
    return option("config_type", help="key of the type of a configuration")


def energy_unit() -> Any:
    return option(None, choices=ENERGY_UNITS, help="unit of the energies", shown_default="eV; kcal/mol in npz files")


def length_unit(shown_default: str = "A") -> Any:
    return option(None, choices=LENGTH_UNITS, help="unit of the positions and the box", shown_default=shown_default)


def forces_unit() -> Any:
    return option(None, help="unit of the forces, such as Hartree/Bohr", shown_default="energy unit / length unit")


def stress_unit() -> Any:
    return option(
        None, choices=("eV/A^3", "GPa", "kbar", "bar"), help="unit of the stresses",
        shown_default="energy unit / length unit^3",
    )  # fmt: skip


def check_data() -> Any:
    return option("refuse", choices=("refuse", "warn"), help="what to do about numbers that look like another unit")


# ------------------------------------------------------------------------------------ files


def force(what: str = "the output file if it exists") -> Any:
    return option(False, help=f"replace {what}")
