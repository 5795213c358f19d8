"""The sections of the options of `mace-md run`, each for the modules that need no more than that."""

from dataclasses import dataclass
from pathlib import Path

from mace_md.config import shared
from mace_md.config.settled import DEFAULT_MODEL
from mace_md.config.tables import ExternalForce, Restraint, Stage
from mace_md.options.declare import Ramp, option

# What no run reaches, and OpenMM, or the header of a DCD file, has no number for.
MOST_STEPS, MOST_STEPS_BETWEEN, LARGEST_SEED = 10**15, 2**31 - 1, 2**31 - 1
_THERMOSTATTED = ("ensemble", ("nvt", "npt"))
_NPT = ("ensemble", ("npt",))


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What is run, and with which model."""

    structure: Path | None = option(
        None,
        help="structure file: PDB, mmCIF, SDF, prmtop, top, gro, CIF, or anything ASE reads; @7 takes frame 7",
        positional=True,
        aliases=("--struct",),
        shown_default="required, or --smiles",
        group="structure and model",
        common=True,
        on_restart="free",
    )
    smiles: str | None = option(
        None,
        instead_of="structure",
        help="a molecule as SMILES in place of a file; coordinates by RDKit",
        common=True,
    )
    model: str = option(
        DEFAULT_MODEL,
        help="model: a name of `mace-md models list`, a .model or .mace file, or a potential.pt of `mace-md export`; "
        "the default comes with the package",
        name_or_path=True,
        common=True,
        on_restart="free",
    )
    head: str | None = shared.head()
    charge: int | None = shared.charge()
    spin: int | None = shared.spin()


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """The ensemble and its bath."""

    ensemble: str = option(
        "nvt",
        choices=("nve", "nvt", "npt"),
        help="statistical ensemble",
        group="ensemble, temperature and pressure",
        common=True,
    )
    temperature: float = option(
        300.0,
        unit="K",
        ramp_from="temperature_from",
        at_least=0,
        aliases=("--temp",),
        help="temperature of the thermostat and of the first velocities",
        common=True,
        at_most=1e6,
    )
    temperature_from: float | None = option(
        None, unit="K", at_least=0, only_if=_THERMOSTATTED, shown_default="no ramp",
        help="temperature at the start of the production, from which it goes evenly to --temperature at the end",
        at_most=1e6,
    )  # fmt: skip
    thermostat: str | None = option(
        None, choices=("langevin", "nose-hoover", "bussi"), only_if=_THERMOSTATTED, fill="langevin", help="thermostat"
    )
    friction: float | None = option(
        None, unit="1/ps", above=0, only_if=_THERMOSTATTED, fill=1.0,
        help="Langevin friction, collision frequency of Nose-Hoover, or 1/tau of Bussi",
        at_most=1e6,
    )  # fmt: skip
    pressure: float | None = option(
        None,
        unit="bar",
        ramp_from="pressure_from",
        only_if=_NPT,
        fill=1.0,
        help="pressure of the barostat",
        common=True,
        at_least=-1e8,
        at_most=1e8,
    )
    pressure_from: float | None = option(
        None, unit="bar", only_if=_NPT, shown_default="no ramp",
        help="pressure at the start of the production, from which it goes evenly to --pressure at the end",
        at_least=-1e8, at_most=1e8,
    )  # fmt: skip
    barostat: str | None = option(
        None, choices=("isotropic", "anisotropic", "membrane", "flexible"), only_if=_NPT, fill="isotropic",
        help="which box changes the Monte Carlo barostat tries",
    )  # fmt: skip
    surface_tension: float | None = option(
        None,
        unit="bar*nm",
        only_if=("barostat", ("membrane",)),
        fill=0.0,
        help="surface tension in xy",
        at_least=-1e8,
        at_most=1e8,
    )
    barostat_interval: int | None = option(
        None, only_if=_NPT, fill=25, at_least=1, help="steps between barostat moves", at_most=MOST_STEPS_BETWEEN
    )
    barostat_scaling: str | None = option(
        None, choices=("molecules", "atoms", "auto"), only_if=_NPT, fill="auto",
        help="what a barostat move scales: rigid molecules, or every atom; auto is molecules where there are several",
    )  # fmt: skip

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


@dataclass(frozen=True, kw_only=True)
class LengthOptions:
    """How long, and the minimisation before."""

    timestep: float = option(
        1.0,
        unit="fs",
        above=0,
        help="integration time step",
        group="length and minimisation",
        common=True,
        at_most=1000,
    )
    steps: int | None = option(
        None,
        at_least=0,
        help="number of production steps in total",
        shown_default="10 ps of steps",
        common=True,
        on_restart="free",
        at_most=MOST_STEPS,
    )
    time: float | None = option(
        None,
        unit="ps",
        at_least=0,
        instead_of="steps",
        help="length of the production run in total, instead of --steps",
        shown_default="10 ps",
        common=True,
        on_restart="free",
        at_most=1e12,
    )
    equilibration_steps: int = option(
        0, at_least=0, help="steps before production that are not written", at_most=MOST_STEPS
    )
    minimize: bool = option(True, help="minimise the energy before the dynamics")
    minimize_tolerance: float | None = option(
        None,
        unit="kJ/mol/nm",
        above=0,
        only_if=("minimize", (True,)),
        fill=100.0,
        help="root-mean-square force component at which minimisation ends (at 300 K it is several times 100)",
        at_most=1e9,
    )
    minimize_iterations: int | None = option(
        None,
        at_least=0,
        only_if=("minimize", (True,)),
        fill=100,
        help="most iterations of the minimiser; 0 is no limit",
        at_most=MOST_STEPS_BETWEEN,
    )
    seed: int | None = option(
        None,
        at_least=0,
        help="seed of velocities, thermostat and barostat",
        shown_default="drawn and recorded",
        common=True,
        at_most=LARGEST_SEED,
    )

    @property
    def num_steps(self) -> int:
        """Production steps in total: `steps`, or `time` / `timestep`, or 10 ps of them."""
        if self.steps is not None:
            return self.steps
        return round((10.0 if self.time is None else self.time) * 1000.0 / self.timestep)


@dataclass(frozen=True, kw_only=True)
class ManyRunsOptions:
    """Several runs in one command."""

    seeds: tuple[int, ...] | None = option(
        None,
        at_least=0,
        instead_of="seed",
        help="one run for each of these seeds, each in a folder of the output",
        shown_default="-",
        group="several runs in one command",
        on_restart="free",
        at_most=LARGEST_SEED,
    )
    temperatures: tuple[float, ...] | None = option(
        None, unit="K", at_least=0, instead_of="temperature", shown_default="-",
        help="one run at each of these temperatures, each in a folder of the output",
        on_restart="free",
        at_most=1e6,
    )  # fmt: skip

    processes: int | None = option(
        None, at_least=1, shown_default="one for each GPU of --device-index, or 1",
        help="how many runs of --seeds and --temperatures are made at the same time, each in a process of its own",
        on_restart="free",
        at_most=1000,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AdditionOptions:
    """What a run adds to the model: beads, masses, restraints, energies of one's own, stages."""

    beads: int = option(
        1,
        at_least=1,
        help="path integral beads of each atom, for quantum nuclei; 1 is classical",
        group="atoms, added forces and stages",
        at_most=1024,
    )
    hydrogen_mass: float | None = option(
        None, unit="Da", at_least=1.0, shown_default="as it is",
        help="mass of hydrogen, taken from the atom it is bonded to; 3 allows longer steps, and slows vibrations",
        at_most=100,
    )  # fmt: skip
    freeze: str | None = option(
        None, help="atoms that do not move: an mdtraj selection; file, those that the structure file fixes (selective "
        "dynamics, move_mask); or none", shown_default="file, where it fixes any",
    )  # fmt: skip
    velocities: str = option(
        "draw", choices=("draw", "file"),
        help="first velocities: drawn at --temperature, or those of the structure file, for a run without minimisation",
    )  # fmt: skip
    restraint: tuple[Restraint, ...] = option((), help="what is held near a value", shown_default="none")
    external_force: tuple[ExternalForce, ...] = option((), help="energies of your own", shown_default="none")
    stage: tuple[Stage, ...] = option((), help="parts of the run, one after the other", shown_default="one part")


@dataclass(frozen=True, kw_only=True)
class DispersionOptions:
    """Dispersion on top of the model."""

    dispersion: str = option(
        "none",
        choices=("none", "d3bj"),
        help="dispersion correction on top of the model, for models without it",
        group="dispersion",
    )
    dispersion_functional: str | None = option(
        None, only_if=("dispersion", ("d3bj",)), help="functional whose D3(BJ) parameters are used",
        shown_default="from the model's level of theory",
    )  # fmt: skip
    dispersion_cutoff: float | None = option(
        None,
        unit="A",
        above=0,
        only_if=("dispersion", ("d3bj",)),
        fill=20.0,
        help="cutoff of its pairs",
        at_most=1000,
    )
    dispersion_missing: str | None = option(
        None, choices=("as-recorded", "yes"), only_if=("dispersion", ("d3bj",)), fill="as-recorded",
        help="yes is your word that the training data have no dispersion, for a model whose file does not say",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HardwareOptions:
    """Precision, platform and kernels."""

    dtype: str | None = option(
        None,
        choices=("float32", "float64"),
        help="precision of the model; of a potential.pt, the one it was exported with",
        shown_default="float32",
        group="precision and hardware",
    )
    platform: str = option(
        "auto",
        choices=("auto", "CUDA", "HIP", "OpenCL", "CPU", "Reference"),
        help="OpenMM platform; auto takes CUDA when there is one",
        common=True,
        on_restart="free",
    )
    precision: str = option(
        "auto",
        choices=("auto", "single", "mixed", "double"),
        help="precision of OpenMM's own arithmetic on CUDA and OpenCL; auto is mixed",
        on_restart="free",
    )
    device_index: tuple[int, ...] | None = option(
        None, at_least=0, shown_default="the first",
        help="which GPU, by its number; several share the runs of --seeds and --temperatures out among them",
        on_restart="free",
        at_most=1000,
    )  # fmt: skip
    deterministic: bool = option(
        False,
        help="the same numbers in every repetition on the same GPU: no sums in an order that changes",
        on_restart="free",
    )
    cuda_graphs: str = option(
        "auto",
        choices=("auto", "on", "off"),
        help="replay the kernels of a step as a CUDA graph; auto does where it can, with the native kernels on CUDA",
        on_restart="free",
    )
    threads: int | None = shared.threads()
    kernels: str = shared.kernels()
    tensor_cores: str | None = option(
        None, choices=("off", "on"), only_if=("kernels", ("native",)), fill="off",
        help="products with weights on the GPU's tensor cores, as 3xTF32: float32, some thousand atoms",
        on_restart="free",
    )  # fmt: skip
    skin: float | None = option(
        None,
        unit="A",
        at_least=0,
        help="margin of the neighbour list",
        shown_default="0.5",
        on_restart="free",
        at_most=100,
    )
    backend: str = option(
        "torchforce",
        choices=("torchforce", "python"),
        help="how OpenMM calls the model: TorchForce, or PythonForce",
        on_restart="free",
    )


@dataclass(frozen=True, kw_only=True)
class SelfCheckOptions:
    """The comparison of the forces before the first step."""

    check: str = option(
        "on",
        choices=("on", "skip"),
        help="compare the forces in OpenMM with the float64 model and a finite difference before step 1",
        group="self-check before the first step",
        on_restart="free",
    )
    check_force_limit: float | None = option(
        None,
        unit="eV/A",
        above=0,
        shown_default="0.001; 1e-05 in float64",
        help="largest deviation of a force component in that comparison",
        on_restart="free",
        at_most=1e12,
    )
    check_energy_limit: float = option(
        0.1,
        unit="meV/atom",
        above=0,
        help="largest deviation of the energy in that comparison",
        on_restart="free",
        at_most=1e12,
    )


@dataclass(frozen=True, kw_only=True)
class SafetyOptions:
    """What ends a run that is no physics any more."""

    safety_interval: int = option(
        20,
        at_least=1,
        help="steps between looks of the safety watch; fewer where looking would cost over 1 %",
        group="safety watch",
        on_restart="free",
        at_most=MOST_STEPS_BETWEEN,
    )
    max_force: float = option(
        50.0,
        unit="eV/A",
        above=0,
        help="a run stops at a force on an atom above this",
        on_restart="free",
        at_most=1e12,
    )
    max_temperature: float | None = option(
        None, unit="K", above=0, help="a run stops above this temperature",
        shown_default="what no thermostat at --temperature reaches, at least 1000",
        on_restart="free",
        at_most=1e12,
    )  # fmt: skip
    closest_contact: float = option(
        0.5, at_least=0,
        help="a run stops when atoms come closer than this times the sum of their covalent radii; 0 is never",
        on_restart="free",
        at_most=10,
    )  # fmt: skip
    bond_break: str = option(
        "auto",
        choices=("auto", "warn", "stop", "ignore"),
        help="what happens when a bond of the start breaks; auto stops where a file, a SMILES or a known residue "
        "states it, and in a minimisation, and warns where it was found by distance",
        on_restart="free",
    )
    small_box: str = option(
        "warn", choices=("warn", "stop", "ignore"),
        help="what happens when a barostat shrinks the box below twice the cutoff",
        on_restart="free",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UncertaintyOptions:
    """What the model does not know, and what happens then."""

    committee: tuple[str, ...] | None = option(
        None,
        name_or_path=True,
        help="further models, or the committee.json of a training: the spread of the forces goes to uncertainty.csv",
        group="uncertainty of the model",
        on_restart="free",
    )
    uncertainty_interval: int = option(
        1000,
        at_least=1,
        help="steps between rows of uncertainty.csv (each costs an evaluation of every model)",
        at_most=MOST_STEPS_BETWEEN,
    )
    committee_limit: float | None = option(
        None, unit="eV/A", above=0, help="spread of the force on an atom above which --on-uncertain acts",
        shown_default="no limit",
        on_restart="free",
        at_most=1e12,
    )  # fmt: skip
    extrapolation_limit: float | None = option(
        2.0, above=0,
        help="distance from the training data above which --on-uncertain acts, for models that carry their statistics",
        on_restart="free",
        at_most=1e12,
    )  # fmt: skip
    on_uncertain: str = option(
        "warn", choices=("warn", "stop", "collect"),
        help="over these limits: warn, stop the run, or collect the frames in uncertain.extxyz",
        on_restart="free",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PropertyOptions:
    """What else is evaluated along the run, for spectra."""

    properties: tuple[str, ...] = option(
        (), choices=("dipole", "polarizability"), shown_default="none",
        help="written to properties.csv and dipoles.npz, in e A; of the model of the run or of --property-model",
        group="dipoles and polarizabilities",
    )  # fmt: skip
    property_model: str | None = option(
        None, name_or_path=True, help="model of dipoles that --properties evaluates", shown_default="that of the run"
    )
    property_interval: int = option(
        10, at_least=1, at_most=MOST_STEPS_BETWEEN, help="steps between rows of properties.csv"
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written where, and how often."""

    output: Path | None = option(
        None,
        help="output folder",
        shown_default="the structure's name + '-run'",
        group="output and restarts",
        common=True,
        on_restart="free",
    )
    restart: bool = option(
        False,
        cli_only=True,
        help="continue the run in the output folder to the total number of steps",
        common=True,
        on_restart="free",
    )
    max_hours: float | None = shared.max_hours()
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
    trajectory_interval: int = option(
        100,
        at_least=1,
        help="steps between frames",
        common=True,
        at_most=MOST_STEPS_BETWEEN,
    )
    report_interval: int = option(100, at_least=1, help="steps between lines of log.csv", at_most=MOST_STEPS_BETWEEN)
    checkpoint_interval: int = option(
        1000, at_least=1, help="steps between checkpoints", on_restart="free", at_most=MOST_STEPS_BETWEEN
    )
