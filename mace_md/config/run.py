"""Options of `mace-md run`."""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mace_md.config import shared
from mace_md.config.preparation import PreparationOptions
from mace_md.config.sections import (
    AdditionOptions,
    DispersionOptions,
    EnsembleOptions,
    HardwareOptions,
    LengthOptions,
    ManyRunsOptions,
    OutputOptions,
    PropertyOptions,
    SafetyOptions,
    SelfCheckOptions,
    SourceOptions,
    UncertaintyOptions,
)
from mace_md.config.settled import Settled
from mace_md.errors import UsageError
from mace_md.options.declare import option
from mace_md.options.reading import settle

LONGEST_NAME = 16  # characters of a folder named after a SMILES


@dataclass(frozen=True, kw_only=True)
class RunConfig(
    OutputOptions,
    PropertyOptions,
    UncertaintyOptions,
    SafetyOptions,
    SelfCheckOptions,
    PreparationOptions,
    HardwareOptions,
    DispersionOptions,
    AdditionOptions,
    ManyRunsOptions,
    LengthOptions,
    EnsembleOptions,
    SourceOptions,
    Settled,
):
    """`mace-md run`. Options of one ensemble (pressure, ...) are None in the others, and filled in where they apply.

    Each section of it stands alone above, for the modules that need no more than that.
    """

    trust_pickle: bool = option(
        False,
        cli_only=True,
        help="run the program inside a potential.pt; for files that you or people you trust made",
        group="the command itself",
        on_restart="free",
    )
    config: Path | None = shared.config(common=True)
    quiet: bool = shared.quiet()
    debug: bool = shared.debug()

    def __post_init__(self) -> None:
        settle(self)
        _refuse_contradictions(self)
        if self.output is None:
            object.__setattr__(self, "output", Path(f"{self._name}-run"))

    @property
    def _name(self) -> str:
        """What the output folder is called after."""
        if self.smiles is not None:
            name = re.sub(r"[^A-Za-z0-9]+", "_", self.smiles).strip("_") or "smiles"
            if len(name) > LONGEST_NAME:  # four digits tell molecules that begin alike
                name = name[: LONGEST_NAME - 5].strip("_") + "_" + sha256(self.smiles.encode()).hexdigest()[:4]
            return name
        return self.structure.stem

    @property
    def num_processes(self) -> int:
        """How many runs are made at the same time."""
        return self.processes or len(self.device_index or (0,))


def _refuse_contradictions(config: RunConfig) -> None:
    """Options of a run that rule each other out, beyond what single declarations say."""
    if config.structure is None and config.smiles is None:
        raise UsageError("structure is missing: give a structure file, or a molecule with --smiles.")
    if config.solvate is not None and config.box is not None:
        raise UsageError("give --solvate, which makes the box, or --box, not both.")
    if config.solvate is not None and config.periodic == "no":
        raise UsageError("--solvate makes a periodic box of water; it does not go with --periodic no.")
    _refuse_velocities(config)
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
    _refuse_devices(config)
    if config.tensor_cores == "on" and config.platform not in ("auto", "CUDA"):
        raise UsageError(f"--tensor-cores on: --platform {config.platform} has none. Take CUDA, or leave it out.")
    if config.deterministic and config.platform == "OpenCL":
        raise UsageError("--deterministic: OpenMM's OpenCL platform adds in an order that changes. Take CUDA or CPU.")
    for name in ("equilibration_steps", "temperature_from", "pressure_from") if config.stage else ():
        if getattr(config, name):
            raise UsageError(f"--{name.replace('_', '-')} is for a run without [[stage]] tables: put it into a stage.")


def _refuse_velocities(config: RunConfig) -> None:
    """Velocities of the file are of one place, and of atoms."""
    if config.velocities == "file" and config.minimize:
        raise UsageError(
            "--velocities file goes on from the motion in the file, and a minimisation ends it: add --no-minimize."
        )
    if config.velocities == "file" and config.beads > 1:
        raise UsageError(f"--beads {config.beads}: a file has the velocities of atoms, not of beads. Draw them.")


def _refuse_devices(config: RunConfig) -> None:
    """Several GPUs or processes are for several runs."""
    devices = config.device_index or ()
    given = "--device-index " + ",".join(map(str, devices))
    if config.device_index == ():
        raise UsageError("--device-index needs the number of a GPU.")
    if len(set(devices)) < len(devices):
        raise UsageError(f"{given}: a GPU is there twice. --processes {len(devices)} puts several runs on one.")
    if config.processes is not None and config.processes < len(devices):
        raise UsageError(f"{given}: {len(devices)} GPUs need --processes {len(devices)} or more.")
    if config.num_processes > 1 and config.seeds is None and config.temperatures is None:
        what = given if len(devices) > 1 else f"--processes {config.processes}"
        raise UsageError(
            f"{what}: this is one run, which has one GPU and one process, since OpenMM does not divide the force of a "
            "model among GPUs. Give several runs to share out, with --seeds 1,2,3 or --temperatures 300,320, or leave "
            "the option out."
        )
