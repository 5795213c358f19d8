"""Every option of every command, once: flag = TOML key = help = default = unit = check. options.py does the rest."""

import re
from dataclasses import dataclass
from pathlib import Path

from mace_md.errors import UsageError
from mace_md.options import GIVEN, Ramp, flag, load_config, option, options_table, settle, template, to_toml
from mace_md.tables import ExternalForce, Restraint, Stage

__all__ = [
    "DEFAULT_MODEL",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "LabelConfig",
    "ModelsConfig",
    "RunConfig",
    "TrainConfig",
    "load_config",
    "options_table",
    "template",
    "to_toml",
]

DEFAULT_MODEL = "mace-md-small"  # comes with the package, see model/zoo.py

_THERMOSTATTED = ("ensemble", ("nvt", "npt"))
_NPT = ("ensemble", ("npt",))
_SOLVATED = ("solvate", GIVEN)


class _Settled:
    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class RunConfig(_Settled):
    """`mace-md run`. Options of one ensemble (pressure, ...) are None in the others, and filled in where they apply."""

    structure: Path | None = option(
        None,
        help="structure file: PDB, mmCIF, SDF, prmtop, top, gro, CIF, or anything ASE reads; @7 takes frame 7",
        positional=True,
        aliases=("--struct",),
        shown_default="required, or --smiles",
    )
    model: str = option(
        DEFAULT_MODEL,
        help="model: a name of `mace-md models list`, a .model or .mace file, or a potential.pt of `mace-md export`; "
        "the default comes with the package",
        name_or_path=True,
    )
    head: str | None = option(None, help="head of a model that has several")
    charge: int | None = option(
        None, help="total charge, for models that use it", unit="e", shown_default="from the file, or 0"
    )
    spin: int | None = option(
        None, help="spin multiplicity 2S+1, for models that use it", at_least=1, shown_default="from the file, or 1"
    )

    ensemble: str = option("nvt", choices=("nve", "nvt", "npt"), help="statistical ensemble")
    temperature: float = option(
        300.0,
        unit="K",
        at_least=0,
        aliases=("--temp",),
        help="temperature of the thermostat and of the first velocities",
    )
    temperature_from: float | None = option(
        None, unit="K", at_least=0, only_if=_THERMOSTATTED, shown_default="no ramp",
        help="temperature at the start of the production, from which it goes evenly to --temperature at the end",
    )  # fmt: skip
    thermostat: str | None = option(
        None, choices=("langevin", "nose-hoover", "bussi"), only_if=_THERMOSTATTED, fill="langevin", help="thermostat"
    )
    friction: float | None = option(
        None, unit="1/ps", above=0, only_if=_THERMOSTATTED, fill=1.0,
        help="Langevin friction, collision frequency of Nose-Hoover, or 1/tau of Bussi",
    )  # fmt: skip
    pressure: float | None = option(None, unit="bar", only_if=_NPT, fill=1.0, help="pressure of the barostat")
    pressure_from: float | None = option(
        None, unit="bar", only_if=_NPT, shown_default="no ramp",
        help="pressure at the start of the production, from which it goes evenly to --pressure at the end",
    )  # fmt: skip
    barostat: str | None = option(
        None, choices=("isotropic", "anisotropic", "membrane", "flexible"), only_if=_NPT, fill="isotropic",
        help="which box changes the Monte Carlo barostat tries",
    )  # fmt: skip
    surface_tension: float | None = option(
        None, unit="bar*nm", only_if=("barostat", ("membrane",)), fill=0.0, help="surface tension in xy"
    )
    barostat_interval: int | None = option(None, only_if=_NPT, fill=25, at_least=1, help="steps between barostat moves")
    barostat_scaling: str | None = option(
        None, choices=("molecules", "atoms", "auto"), only_if=_NPT, fill="auto",
        help="what a barostat move scales: rigid molecules, or every atom; auto is molecules where there are several",
    )  # fmt: skip

    timestep: float = option(1.0, unit="fs", above=0, help="integration time step")
    steps: int | None = option(
        None, at_least=0, help="number of production steps in total", shown_default="10 ps of steps"
    )
    time: float | None = option(
        None,
        unit="ps",
        at_least=0,
        instead_of="steps",
        help="length of the production run in total, instead of --steps",
        shown_default="10 ps",
    )
    equilibration_steps: int = option(0, at_least=0, help="steps before production that are not written")
    minimize: bool = option(True, help="minimise the energy before the dynamics")
    minimize_tolerance: float | None = option(
        None,
        unit="kJ/mol/nm",
        above=0,
        only_if=("minimize", (True,)),
        fill=100.0,
        help="root-mean-square force component at which minimisation ends (at 300 K it is several times 100)",
    )
    minimize_iterations: int | None = option(
        None,
        at_least=0,
        only_if=("minimize", (True,)),
        fill=100,
        help="most iterations of the minimiser; 0 is no limit",
    )
    seed: int | None = option(
        None, at_least=0, help="seed of velocities, thermostat and barostat", shown_default="drawn and recorded"
    )
    seeds: tuple[int, ...] | None = option(
        None, at_least=0, instead_of="seed", help="one run for each of these seeds, each in a folder of the output",
        shown_default="-",
    )  # fmt: skip
    temperatures: tuple[float, ...] | None = option(
        None, unit="K", at_least=0, instead_of="temperature", shown_default="-",
        help="one run at each of these temperatures, each in a folder of the output",
    )  # fmt: skip

    beads: int = option(1, at_least=1, help="path integral beads of each atom, for quantum nuclei; 1 is classical")
    hydrogen_mass: float | None = option(
        None, unit="Da", at_least=1.0, shown_default="as it is",
        help="mass of hydrogen, taken from the atom it is bonded to; 3 allows longer steps, and slows vibrations",
    )  # fmt: skip
    freeze: str | None = option(None, help="atoms that do not move, as an mdtraj selection", shown_default="none")
    restraint: tuple[Restraint, ...] = option((), help="what is held near a value", shown_default="none")
    external_force: tuple[ExternalForce, ...] = option((), help="energies of your own", shown_default="none")
    stage: tuple[Stage, ...] = option((), help="parts of the run, one after the other", shown_default="one part")
    dispersion: str = option(
        "none", choices=("none", "d3bj"), help="dispersion correction on top of the model, for models without it"
    )
    dispersion_functional: str | None = option(
        None, only_if=("dispersion", ("d3bj",)), help="functional whose D3(BJ) parameters are used",
        shown_default="from the model's level of theory",
    )  # fmt: skip
    dispersion_cutoff: float | None = option(
        None, unit="A", above=0, only_if=("dispersion", ("d3bj",)), fill=20.0, help="cutoff of its pairs"
    )
    dispersion_missing: str | None = option(
        None, choices=("as-recorded", "yes"), only_if=("dispersion", ("d3bj",)), fill="as-recorded",
        help="yes is your word that the training data have no dispersion, for a model whose file does not say",
    )  # fmt: skip

    dtype: str | None = option(
        None,
        choices=("float32", "float64"),
        help="precision of the model; of a potential.pt, the one it was exported with",
        shown_default="float32",
    )
    platform: str = option(
        "auto",
        choices=("auto", "CUDA", "HIP", "OpenCL", "CPU", "Reference"),
        help="OpenMM platform; auto takes CUDA when there is one",
    )
    precision: str = option(
        "auto",
        choices=("auto", "single", "mixed", "double"),
        help="precision of OpenMM's own arithmetic on CUDA and OpenCL; auto is mixed",
    )
    device_index: tuple[int, ...] | None = option(
        None, at_least=0, help="which GPU, by its number; a run has one", shown_default="the first"
    )
    deterministic: bool = option(
        False, help="the same numbers in every repetition on the same GPU: no sums in an order that changes"
    )
    cuda_graphs: str = option(
        "auto",
        choices=("auto", "on", "off"),
        help="replay the kernels of a step as a CUDA graph; auto does where it can, with the native kernels on CUDA",
    )
    threads: int | None = option(None, at_least=1, help="CPU threads", shown_default="all cores")
    kernels: str = option(
        "auto",
        choices=("auto", "native", "reference"),
        help="native (compiled) kernels, the PyTorch reference, or native where they are built",
    )
    backend: str = option(
        "torchforce", choices=("torchforce", "python"), help="how OpenMM calls the model: TorchForce, or PythonForce"
    )

    periodic: str = option(
        "auto", choices=("auto", "yes", "no"), help="periodic boundaries; auto is yes when the structure has a box"
    )
    box: tuple[float, ...] | None = option(
        None,
        unit="A",
        above=0,
        count=(3, 6),
        help="box lengths a,b,c or a,b,c,alpha,beta,gamma (A and degrees)",
        shown_default="from the file",
    )
    skin: float | None = option(None, unit="A", at_least=0, help="margin of the neighbour list", shown_default="0.5")
    smiles: str | None = option(
        None, instead_of="structure", help="a molecule as SMILES in place of a file; coordinates by RDKit"
    )
    coordinates: Path | None = option(
        None, help="coordinates of a topology without: inpcrd or rst7 of a prmtop, gro of a GROMACS top"
    )
    include: Path | None = option(None, help="folder of the force field files that a GROMACS top includes")
    virtual_sites: str = option(
        "refuse", choices=("refuse", "drop"), help="massless sites of four- and five-site water: MACE knows nuclei only"
    )
    hydrogens: str = option(
        "check", choices=("check", "add", "keep"),
        help="check refuses residues without hydrogens, add puts them in, keep takes the file as it is",
    )  # fmt: skip
    ph: float | None = option(
        None, at_least=0, only_if=("hydrogens", ("add",)), fill=7.0, help="pH that decides which hydrogens are added"
    )
    repair: str | None = option(
        None, choices=("refuse", "atoms", "residues"), only_if=("hydrogens", ("add",)), fill="refuse",
        help="where heavy atoms are missing: refuse, build atoms, or build missing residues inside chains too",
    )  # fmt: skip
    supercell: tuple[int, ...] | None = option(
        None, at_least=1, count=(3,), help="copies of the box along a,b,c", shown_default="1,1,1"
    )
    solvate: float | None = option(
        None, unit="A", at_least=0, help="put the structure in a box of water with this margin on every side",
        shown_default="no water",
    )  # fmt: skip
    box_shape: str | None = option(
        None, choices=("cube", "dodecahedron", "octahedron"), only_if=_SOLVATED, fill="cube",
        help="shape of the box of water",
    )  # fmt: skip
    ion_concentration: float | None = option(
        None, unit="mol/L", at_least=0, only_if=_SOLVATED, fill=0.0, help="salt, beyond the ions that neutralise"
    )
    neutralize: str | None = option(
        None, choices=("yes", "no"), only_if=_SOLVATED, fill="yes", help="add ions until the total charge is zero"
    )
    positive_ion: str | None = option(
        None, choices=("Na+", "K+", "Li+", "Cs+", "Rb+"), only_if=_SOLVATED, fill="Na+", help="cation to add"
    )
    negative_ion: str | None = option(
        None, choices=("Cl-", "Br-", "F-", "I-"), only_if=_SOLVATED, fill="Cl-", help="anion to add"
    )
    solute_charge: int | None = option(
        None, unit="e", only_if=_SOLVATED, help="charge of all that is solvated, for the ions",
        shown_default="from the file, or from residue templates",
    )  # fmt: skip
    check: str = option(
        "on",
        choices=("on", "skip"),
        help="compare the forces in OpenMM with the float64 model and a finite difference before step 1",
    )
    check_force_limit: float = option(
        1e-3, unit="eV/A", above=0, help="largest deviation of a force component in that comparison"
    )
    check_energy_limit: float = option(
        0.1, unit="meV/atom", above=0, help="largest deviation of the energy in that comparison"
    )

    safety_interval: int = option(
        20, at_least=1, help="steps between looks of the safety watch; fewer where looking would cost over 1 %"
    )
    max_force: float = option(50.0, unit="eV/A", above=0, help="a run stops at a force on an atom above this")
    max_temperature: float | None = option(
        None, unit="K", above=0, help="a run stops above this temperature",
        shown_default="what no thermostat at --temperature reaches, at least 1000",
    )  # fmt: skip
    closest_contact: float = option(
        0.5, at_least=0,
        help="a run stops when atoms come closer than this times the sum of their covalent radii; 0 is never",
    )  # fmt: skip
    bond_break: str = option(
        "warn", choices=("warn", "stop", "ignore"), help="what happens when a bond of the starting structure breaks"
    )
    small_box: str = option(
        "warn", choices=("warn", "stop", "ignore"),
        help="what happens when a barostat shrinks the box below twice the cutoff",
    )  # fmt: skip

    committee: tuple[str, ...] | None = option(
        None, name_or_path=True,
        help="further models, or the committee.json of a training: the spread of the forces goes to uncertainty.csv",
    )  # fmt: skip
    uncertainty_interval: int = option(
        1000, at_least=1, help="steps between rows of uncertainty.csv (each costs an evaluation of every model)"
    )
    committee_limit: float | None = option(
        None, unit="eV/A", above=0, help="spread of the force on an atom above which --on-uncertain acts",
        shown_default="no limit",
    )  # fmt: skip
    extrapolation_limit: float | None = option(
        2.0, above=0,
        help="distance from the training data above which --on-uncertain acts, for models that carry their statistics",
    )  # fmt: skip
    on_uncertain: str = option(
        "warn", choices=("warn", "stop", "collect"),
        help="over these limits: warn, stop the run, or collect the frames in uncertain.extxyz",
    )  # fmt: skip

    output: Path | None = option(None, help="output folder", shown_default="the structure's name + '-run'")
    restart: bool = option(
        False, cli_only=True, help="continue the run in the output folder to the total number of steps"
    )
    max_hours: float | None = option(
        None, unit="h", above=0, help="stop cleanly, with a checkpoint, after this wall time", shown_default="no limit"
    )
    trajectory_format: tuple[str, ...] = option(
        ("dcd",), choices=("dcd", "xtc", "trr", "extxyz"), help="trajectory files to write"
    )
    wrap: str = option(
        "molecules", choices=("molecules", "none"),
        help="positions in the trajectory: whole molecules with their centres in the box, or as they moved, unwrapped",
    )  # fmt: skip
    trajectory_atoms: str | None = option(
        None, help="atoms in the trajectory and in topology.pdb, as an mdtraj selection", shown_default="all"
    )
    trajectory_data: tuple[str, ...] = option(
        (), choices=("velocities", "forces"), help="what trr and extxyz files hold beside the positions",
        shown_default="positions",
    )  # fmt: skip
    bead_trajectories: bool = option(False, help="a trajectory of each bead of a path integral, beside the centroids'")
    trajectory_interval: int = option(100, at_least=1, help="steps between frames")
    report_interval: int = option(100, at_least=1, help="steps between lines of log.csv")
    checkpoint_interval: int = option(1000, at_least=1, help="steps between checkpoints")

    trust_pickle: bool = option(
        False, cli_only=True, help="run the program inside a potential.pt; for files that you or people you trust made"
    )
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")

    def __post_init__(self) -> None:
        settle(self)
        _refuse_contradictions(self)
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{self._name}-run"))

    @property
    def _name(self) -> str:
        """What the output folder is called after."""
        if self.smiles is not None:
            return re.sub(r"[^A-Za-z0-9]+", "_", self.smiles).strip("_")[:40] or "smiles"
        return self.structure.stem

    @property
    def temperature_ramp(self) -> Ramp:
        """The temperature (K) over the production."""
        return Ramp(self.temperature if self.temperature_from is None else self.temperature_from, self.temperature)

    @property
    def pressure_ramp(self) -> Ramp | None:
        """The pressure (bar) over the production; None without a barostat."""
        if self.pressure is None:
            return None
        return Ramp(self.pressure if self.pressure_from is None else self.pressure_from, self.pressure)

    @property
    def num_steps(self) -> int:
        """Production steps in total: `steps`, or `time` / `timestep`, or 10 ps of them."""
        if self.steps is not None:
            return self.steps
        return round((10.0 if self.time is None else self.time) * 1000.0 / self.timestep)


def _refuse_contradictions(config: RunConfig) -> None:
    """Options of a run that rule each other out, beyond what single declarations say."""
    if config.structure is None and config.smiles is None:
        raise UsageError("structure is missing: give a structure file, or a molecule with --smiles.")
    if config.solvate is not None and config.box is not None:
        raise UsageError("give --solvate, which makes the box, or --box, not both.")
    if config.solvate is not None and config.periodic == "no":
        raise UsageError("--solvate makes a periodic box of water; it does not go with --periodic no.")
    if config.beads > 1 and config.thermostat not in (None, "langevin"):
        raise UsageError(f"--beads {config.beads} brings its own thermostat, of Langevin kind: leave --thermostat out.")
    if config.beads > 1 and config.barostat not in (None, "isotropic"):
        raise UsageError(f"--beads {config.beads} goes with the isotropic barostat only, not {config.barostat}.")
    if config.bead_trajectories and config.beads == 1 and all(not stage.beads for stage in config.stage):
        raise UsageError("--bead-trajectories needs --beads of more than 1.")
    if config.trajectory_data and not {"trr", "extxyz"} & set(config.trajectory_format):
        raise UsageError(
            f"--trajectory-data {','.join(config.trajectory_data)}: {' and '.join(config.trajectory_format)} files "
            "hold positions only. Add trr (binary, single precision) or extxyz (text) to --trajectory-format."
        )
    if config.device_index is not None and len(config.device_index) != 1:
        given = ",".join(map(str, config.device_index))
        raise UsageError(
            f"--device-index {given}: a model runs on one GPU. Start one command for each, for instance with a seed "
            "and an --output of its own: --device-index 0 --seed 1 --output a, --device-index 1 --seed 2 --output b."
        )
    if config.deterministic and config.platform == "OpenCL":
        raise UsageError("--deterministic: OpenMM's OpenCL platform adds in an order that changes. Take CUDA or CPU.")
    for name in ("equilibration_steps", "temperature_from", "pressure_from") if config.stage else ():
        if getattr(config, name):
            raise UsageError(f"--{name.replace('_', '-')} is for a run without [[stage]] tables: put it into a stage.")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_Settled):
    """`mace-md export`."""

    model: str = option(
        help="model: a name of `mace-md models list`, or a .model or .mace file", positional=True, name_or_path=True
    )
    structure: Path = option(
        help="structure file whose atoms the potential is made for", positional=True, aliases=("--struct",)
    )
    coordinates: Path | None = option(
        None, help="coordinates of a topology without: inpcrd or rst7 of a prmtop, gro of a GROMACS top"
    )
    include: Path | None = option(None, help="folder of the force field files that a GROMACS top includes")
    virtual_sites: str = option(
        "refuse", choices=("refuse", "drop"), help="massless sites of four- and five-site water: MACE knows nuclei only"
    )
    output: Path = option(Path("potential.pt"), help="file to write")
    force: bool = option(False, help="replace the output file if it exists")
    head: str | None = option(None, help="head of a model that has several")
    dtype: str = option("float32", choices=("float32", "float64"), help="precision of the model")
    kernels: str = option(
        "auto",
        choices=("auto", "native", "reference"),
        help="native (compiled) kernels, the PyTorch reference, or native where they are built",
    )
    periodic: str = option(
        "auto", choices=("auto", "yes", "no"), help="periodic boundaries; auto is yes when the structure has a box"
    )
    box: tuple[float, ...] | None = option(
        None,
        unit="A",
        above=0,
        count=(3, 6),
        help="box lengths a,b,c or a,b,c,alpha,beta,gamma (A and degrees)",
        shown_default="from the file",
    )
    skin: float = option(0.5, unit="A", at_least=0, help="margin of the neighbour list")
    hydrogens: str = option(
        "check",
        choices=("check", "keep"),
        help="check refuses residues without hydrogens, keep takes the file as it is",
    )
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")


_STAGE_TWO = ("stage_two", (True,))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Settled):
    """`mace-md train`."""

    data: tuple[Path, ...] = option(
        help="labelled frames: extended XYZ (or what ASE reads), .npz in rMD17's layout, .h5 of mace-md",
        positional=True,
    )
    valid: tuple[Path, ...] | None = option(None, help="files of validation frames", shown_default="part of the data")
    valid_fraction: float | None = option(None, above=0, help="part of the data for validation", shown_default="0.05")
    valid_count: int | None = option(None, at_least=1, help="number of frames for validation")
    valid_index: Path | None = option(None, help="file of frame numbers, counted from 0, for validation")
    split_seed: int = option(0, at_least=0, help="seed of the division into training and validation frames")
    train_count: int | None = option(
        None, at_least=1, help="train on so many frames, drawn with --split-seed", shown_default="all that are left"
    )
    energy_key: str | None = option(None, help="name of the energy", shown_default="REF_energy or energy")
    forces_key: str | None = option(None, help="name of the forces", shown_default="REF_forces or forces")
    stress_key: str | None = option(None, help="name of the stress", shown_default="REF_stress or stress")
    virials_key: str | None = option(None, help="name of the virials", shown_default="REF_virials or virials")
    config_type_key: str = option("config_type", help="name of what kind of configuration a frame is")
    head_key: str = option("head", help="name of the readout head that a frame belongs to")
    energy_unit: str | None = option(
        None, choices=("eV", "meV", "kcal/mol", "kJ/mol", "Hartree"), help="unit of energies",
        shown_default="eV; kcal/mol in .npz",
    )  # fmt: skip
    length_unit: str | None = option(
        None, choices=("A", "nm", "Bohr"), help="unit of positions and box", shown_default="A"
    )
    forces_unit: str | None = option(
        None, help="unit of forces, such as Hartree/Bohr", shown_default="energy unit / length unit"
    )
    stress_unit: str | None = option(
        None, choices=("eV/A^3", "GPa", "kbar", "bar"), help="unit of the stress",
        shown_default="energy unit / length unit^3",
    )  # fmt: skip
    missing_labels: str = option(
        "refuse", choices=("refuse", "ignore"),
        help="frames without a label that has a weight: refuse them, or train on what is there",
    )  # fmt: skip
    check_data: str = option(
        "refuse", choices=("refuse", "warn"), help="what to do about magnitudes that give other units away"
    )
    config_type_weights: tuple[str, ...] = option(
        (), help="weights of kinds of configurations, such as liquid=2,dimer=0.5", shown_default="1 each"
    )
    level_of_theory: str = option("unknown", help="what the labels were computed with; kept in the model")

    start_from: str | None = option(
        None, name_or_path=True, shown_default="random weights", aliases=("--from",),
        help="model whose weights training starts from: a name, a .model or a .mace file",
    )  # fmt: skip
    head: str | None = option(None, help="head of that model, if it has several")
    freeze: tuple[str, ...] = option(
        (), shown_default="none",
        help="weights that stay as they are: embedding, interactions, products, readouts, or those of one layer, such "
        "as interactions.0",
    )  # fmt: skip
    replay: tuple[Path, ...] | None = option(
        None, help="frames labelled as that model was trained, or by it (mace-md label), to hold it to what it knew, "
        "on a second head",
    )  # fmt: skip
    replay_count: int | None = option(
        None, at_least=2, help="most frames of replay, drawn with --split-seed", shown_default="all"
    )
    replay_weight: float = option(1.0, above=0, help="weight of a frame of replay; one of the data has 1")
    e0s: str | None = option(
        None, choices=("auto", "isolated", "least-squares", "mean", "model", "refit"), shown_default="auto",
        help="energies of isolated atoms: from their frames in the data, fitted to the energies, the mean energy per "
        "atom for every element, those of --start-from, or these moved by a fit of what they leave of the energies; "
        "auto is isolated where the data have all of them, else model, else least-squares",
    )  # fmt: skip
    e0s_file: Path | None = option(
        None, instead_of="e0s", help='file with them: JSON such as {"H": -13.6}, or labelled frames of single atoms'
    )
    r_max: float | None = option(None, unit="A", above=0, help="cutoff radius", shown_default="5")
    num_channels: int | None = option(None, at_least=1, help="channels of every feature", shown_default="64")
    max_L: int | None = option(None, at_least=0, help="highest l of the messages", shown_default="1")
    max_ell: int | None = option(None, at_least=0, help="highest l of the harmonics of edges", shown_default="3")
    correlation: int | None = option(None, at_least=1, help="factors in a product: body order - 1", shown_default="3")
    num_interactions: int | None = option(None, at_least=1, help="layers", shown_default="2")
    num_bessel: int | None = option(None, at_least=1, help="radial basis functions", shown_default="8")
    num_polynomial_cutoff: int | None = option(None, at_least=2, help="power of the cutoff", shown_default="5")
    radial_MLP: tuple[int, ...] | None = option(
        None, at_least=1, help="widths of the radial network", shown_default="64,64,64"
    )
    pair_repulsion: bool = option(False, help="add the Ziegler-Biersack-Littmark repulsion of the cores")
    scale: str = option(
        "rms-forces", choices=("rms-forces", "std-energy", "none"), help="unit of the model's energies, from the data"
    )
    shift: str = option(
        "none", choices=("none", "mean"), help="energy added to every atom: none keeps isolated atoms at their E0s"
    )

    loss: str = option("mse", choices=("mse", "huber", "universal"), help="shape of the loss")
    energy_weight: float = option(1.0, at_least=0, help="weight of the energy per atom, in eV")
    forces_weight: float = option(100.0, at_least=0, help="weight of the forces")
    stress_weight: float | None = option(None, at_least=0, help="weight of the stress", shown_default="1 if labelled")
    huber_delta: float = option(0.01, above=0, help="where huber and universal turn from square to linear")
    epochs: int = option(500, at_least=1, help="passes over the data")
    batch_size: int = option(10, at_least=1, help="frames in a step, of all processes together")
    valid_batch_size: int = option(20, at_least=1, help="frames evaluated at once in validation")
    lr: float | None = option(None, above=0, help="learning rate", shown_default="0.01; 0.001 with --start-from")
    optimizer: str = option(
        "adamw", choices=("adamw", "adam"), help="Adam with decoupled weight decay, or with decay in the gradient"
    )
    amsgrad: bool = option(True, help="the AMSGrad variant")
    weight_decay: float = option(5e-7, at_least=0, help="decay of the weights of products and the maps before")
    clip_grad: float | None = option(10.0, at_least=0, help="largest norm of the gradient; 0 is no limit")
    ema: float = option(0.99, at_least=0, help="decay of the moving average of the weights; 0 is none")
    scheduler: str = option("plateau", choices=("plateau", "exponential", "none"), help="how the learning rate falls")
    lr_factor: float = option(0.8, above=0, help="factor of the plateau scheduler")
    lr_patience: int = option(50, at_least=0, help="epochs without improvement before the factor")
    lr_decay: float = option(0.9993, above=0, help="factor an epoch of the exponential scheduler")
    patience: int = option(2048, at_least=1, help="epochs without improvement before the stage ends")
    stage_two: bool = option(True, help="raise the energy weight for the last quarter, at a lower learning rate")
    stage_two_start: int | None = option(
        None, at_least=1, only_if=_STAGE_TWO, help="epochs before the second stage", shown_default="3/4 of --epochs"
    )
    stage_two_lr: float | None = option(
        None, above=0, only_if=_STAGE_TWO, fill=1e-3, help="learning rate of the second stage"
    )
    stage_two_energy_weight: float | None = option(
        None, at_least=0, only_if=_STAGE_TWO, fill=1000.0, help="weight of the energy in the second stage"
    )
    stage_two_forces_weight: float | None = option(
        None, at_least=0, only_if=_STAGE_TWO, fill=100.0, help="weight of the forces in the second stage"
    )
    stage_two_stress_weight: float | None = option(
        None,
        at_least=0,
        only_if=_STAGE_TWO,
        help="weight of the stress in the second stage",
        shown_default="10 if labelled",
    )
    seed: int | None = option(None, at_least=0, help="seed of the first weights and of the order", shown_default="1")
    seeds: tuple[int, ...] | None = option(
        None, at_least=0, instead_of="seed", help="train one model for each: a committee, in folders seed-1, ..."
    )
    dtype: str = option("float32", choices=("float32", "float64"), help="precision of the model")
    device: str = option("auto", help="cpu, cuda, cuda:1; auto takes a GPU when there is one")
    threads: int | None = option(None, at_least=1, help="CPU threads", shown_default="all cores")

    output: Path | None = option(None, help="output folder", shown_default="the name of the data + '-training'")
    restart: bool = option(False, cli_only=True, help="continue the training in the output folder")
    max_hours: float | None = option(
        None, unit="h", above=0, help="stop cleanly, with a checkpoint, after this wall time", shown_default="no limit"
    )
    checkpoint_interval: int = option(1, at_least=1, help="epochs between checkpoints")
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")

    def __post_init__(self) -> None:
        settle(self)
        ways = [name for name in ("valid", "valid_fraction", "valid_count", "valid_index") if getattr(self, name)]
        if len(ways) > 1:
            raise UsageError(f"give {' or '.join(map(flag, ways))}, not both.")
        if self.lr is None:
            object.__setattr__(self, "lr", 0.01 if self.start_from is None else 0.001)
        if self.replay and self.start_from is None:
            raise UsageError("--replay needs --start-from: it holds a trained model to what it knew.")
        for name, value in (("stage_two_start", max(1, self.epochs * 3 // 4)), ("seed", 1)):
            needed = self.stage_two if name == "stage_two_start" else self.seeds is None
            if getattr(self, name) is None and needed:
                object.__setattr__(self, name, value)
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{self.data[0].name.split('.')[0]}-training"))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(_Settled):
    """`mace-md evaluate`."""

    model: str = option(
        help="model: a name of `mace-md models list`, or a .model or .mace file", positional=True, name_or_path=True
    )
    data: tuple[Path, ...] = option(
        help="labelled data: extended XYZ (or what ASE reads), rMD17 npz, HDF5", positional=True
    )
    head: str | None = option(None, help="head of a model that has several")
    energy_key: str | None = option(None, help="key of the energies", shown_default="REF_energy or energy")
    forces_key: str | None = option(None, help="key of the forces", shown_default="REF_forces or forces")
    stress_key: str | None = option(None, help="key of the stresses", shown_default="REF_stress or stress")
    virials_key: str | None = option(None, help="key of the virials", shown_default="REF_virials or virials")
    config_type_key: str = option("config_type", help="key of the type of a configuration")
    energy_unit: str | None = option(
        None, help="unit of the energies: eV, meV, kcal/mol, kJ/mol, Hartree", shown_default="eV; kcal/mol in npz files"
    )
    length_unit: str | None = option(None, help="unit of the positions and the box: A, Bohr, nm", shown_default="A")
    forces_unit: str | None = option(
        None, help="unit of the forces, such as Hartree/Bohr", shown_default="energy unit / length unit"
    )
    stress_unit: str | None = option(
        None, help="unit of the stresses: eV/A^3, GPa, kbar, bar", shown_default="energy unit / length unit^3"
    )
    check_data: str = option(
        "refuse", choices=("refuse", "warn"), help="what to do about numbers that look like another unit"
    )
    dtype: str = option("float64", choices=("float32", "float64"), help="precision of the model")
    kernels: str = option(
        "auto",
        choices=("auto", "native", "reference"),
        help="native (compiled) kernels, the PyTorch reference, or native where they are built",
    )
    device: str = option(
        "auto", choices=("auto", "cpu", "cuda"), help="where to compute; auto takes a GPU if there is one"
    )
    threads: int | None = option(None, at_least=1, help="CPU threads", shown_default="all cores")
    plots: bool = option(True, help="parity plots")
    output: Path | None = option(
        None, help="folder for errors.json and the plots", shown_default="the model's name + '-errors'"
    )
    force: bool = option(False, help="replace the files of an earlier evaluation in the folder")
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")

    def __post_init__(self) -> None:
        settle(self)
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{Path(self.model).stem}-errors"))


@dataclass(frozen=True, kw_only=True)
class LabelConfig(_Settled):
    """`mace-md label`."""

    model: str = option(
        help="model: a name of `mace-md models list`, or a .model or .mace file", positional=True, name_or_path=True
    )
    geometries: tuple[Path, ...] = option(
        help="what ASE reads, rMD17 npz, HDF5 (SPICE's layout or our own), or DCD, XTC, TRR with --topology",
        positional=True,
    )
    output: Path = option(Path("labelled.xyz"), help="file to write: .xyz or .extxyz, or .h5 or .hdf5")
    force: bool = option(False, help="replace the output file if it exists")
    topology: Path | None = option(None, help="topology of the DCD, XTC or TRR files: PDB or mmCIF")
    every: int = option(
        1, at_least=1, help="take every n-th geometry of each file (of each molecule in SPICE's layout)"
    )
    most: int | None = option(
        None, at_least=1, help="most geometries in all, drawn at random with --seed", shown_default="all"
    )
    seed: int = option(0, at_least=0, help="seed of that draw")
    head: str | None = option(None, help="head of a model that has several")
    as_head: str = option("Default", help="head that the labels are for in a training with several")
    config_type: str | None = option(
        None, help="type of the configurations", shown_default="as in the file, or the file's name"
    )
    largest_force: float | None = option(
        None, unit="eV/A", above=0, help="leave geometries out where the model gives a force above this"
    )
    length_unit: str | None = option(
        None, help="unit of positions and box: A, Bohr, nm", shown_default="A; HDF5: as the file says"
    )
    dtype: str = option("float64", choices=("float32", "float64"), help="precision of the model")
    kernels: str = option(
        "auto",
        choices=("auto", "native", "reference"),
        help="native (compiled) kernels, the PyTorch reference, or native where they are built",
    )
    device: str = option(
        "auto", choices=("auto", "cpu", "cuda"), help="where to compute; auto takes a GPU if there is one"
    )
    threads: int | None = option(None, at_least=1, help="CPU threads", shown_default="all cores")
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(_Settled):
    """`mace-md models`."""

    action: str = option(
        "list",
        choices=("list", "pull", "show"),
        help="list the named models, fetch one, or describe one",
        positional=True,
    )
    name: str | None = option(
        None, positional=True, name_or_path=True, help="name of a model (pull, show) or a model file (show)"
    )
    cache: Path | None = option(None, help="folder of the fetched models", shown_default="the user's cache folder")
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    quiet: bool = option(False, cli_only=True, help="no progress on the terminal")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(_Settled):
    """`mace-md doctor`."""

    json: bool = option(False, help="print the findings as JSON")
    config: Path | None = option(None, cli_only=True, help="TOML file with any of these options")
    debug: bool = option(False, cli_only=True, help="show the traceback of an error")
