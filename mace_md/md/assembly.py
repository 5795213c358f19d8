"""From the options of a run to OpenMM: masses and selections, the parts of the run, and the Simulation of each part."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import openmm
import torch
from openmm import app

from mace_md.config import RunConfig
from mace_md.config.sections import HardwareOptions
from mace_md.errors import InputError
from mace_md.md.dynamics.barostat import choose_scaling, make_barostat
from mace_md.md.dynamics.integrators import Dynamics, make_dynamics
from mace_md.md.dynamics.masses import frozen, repartition_hydrogen
from mace_md.md.dynamics.stages import Part, parts_of
from mace_md.md.dynamics.velocities import is_linear
from mace_md.md.forces.dispersion import choose_functional, dispersion_force
from mace_md.md.forces.model import make_force
from mace_md.md.forces.restraints import external_forces, restraint_forces
from mace_md.md.loaded import LoadedModel
from mace_md.md.stepping.anchors import anchored, needs_anchors
from mace_md.md.stepping.graphs import GraphChoice, GraphStepper, choose_graphs
from mace_md.md.stepping.memory import check_memory, forecast
from mace_md.md.stepping.simulation import PlatformChoice, choose_platform, make_simulation
from mace_md.md.stepping.stepper import Stepper
from mace_md.md.system import make_system
from mace_md.model.potential import KernelChoice
from mace_md.structures import preflight
from mace_md.structures.selection import select_atoms
from mace_md.structures.structure import Structure

log = logging.getLogger("mace_md")


@dataclass(frozen=True)
class SetUp:
    """What all parts of a run share. Indices of atoms; masses [n_atoms] Da, 0 for atoms that do not move."""

    structure: Structure
    model: LoadedModel
    masses: np.ndarray
    in_trajectory: np.ndarray | None
    functional: str | None = None  # whose D3(BJ) is added to the model


def set_up(config: RunConfig, structure: Structure, model: LoadedModel) -> SetUp:
    """Masses and selections, and what they mean for the run."""
    masses = structure.masses
    if config.hydrogen_mass is not None:
        bonds = structure.molecules.bonds
        masses = repartition_hydrogen(structure.topology, config.hydrogen_mass, bonds)
        log.info("masses: hydrogen %g Da, taken from the atoms it is bonded to", config.hydrogen_mass)
    if config.velocities == "file" and structure.velocities is None:
        raise InputError(
            f"--velocities file: {structure.path} has no velocities, or atoms were added, which have none. They are "
            "read from .gro, .rst7, POSCAR and extended XYZ with momenta."
        )
    if config.velocities == "draw" and structure.velocities is not None:
        log.info("note: the file has velocities; new ones are drawn (--velocities file --no-minimize takes those)")
    held, why = _held(config, structure)
    if len(held):
        masses = frozen(masses, held, why)
        log.info("masses: %d of %d atoms do not move (%s)", len(held), len(masses), why)
    in_trajectory = None
    if config.trajectory_atoms is not None:
        in_trajectory = select_atoms(structure, config.trajectory_atoms, "--trajectory-atoms")
        log.info("trajectory: %d of %d atoms (%s)", len(in_trajectory), len(masses), config.trajectory_atoms)
    functional = None
    if config.dispersion == "d3bj":
        functional = choose_functional(
            model.facts, config.model, config.dispersion_functional, missing=config.dispersion_missing == "yes"
        )
        log.info("dispersion: D3(BJ) of %s is added, pairs within %g A", functional, config.dispersion_cutoff)
    return SetUp(structure, model, masses, in_trajectory, functional)


def _held(config: RunConfig, structure: Structure) -> tuple[np.ndarray, str]:
    """Indices of the atoms that do not move, and who says so. Raises InputError for a file that fixes half an atom."""
    fixed = structure.fixed
    whole = np.zeros(0, dtype=int) if fixed is None else np.flatnonzero(fixed.all(axis=1))
    if config.freeze not in (None, "file"):
        if len(whole):
            log.info("note: the file fixes %d atoms; --freeze %s takes its place", len(whole), config.freeze)
        if config.freeze == "none":
            return whole[:0], ""
        return select_atoms(structure, config.freeze, "--freeze"), config.freeze
    if config.freeze == "file" and fixed is None:
        raise InputError(f"--freeze file: {structure.path} fixes no atoms. Give a selection, or leave the option out.")
    partly = [] if fixed is None else np.flatnonzero(fixed.any(axis=1) & ~fixed.all(axis=1))
    if len(partly):
        raise InputError(
            f"{structure.path}: atom {partly[0] + 1} (one of {len(partly)}) is fixed in some directions and free in "
            "others, and OpenMM holds whole atoms. Say what is to be held with --freeze and a selection, or --freeze "
            "none."
        )
    return whole, "as the file says; --freeze none lets them move"


def checked_parts(config: RunConfig, setup: SetUp) -> list[Part]:
    """The parts of the run, after the checks that would otherwise fail in a later one."""
    parts = parts_of(config)
    _say(f"restraint: {line}" for line in restraint_forces(setup.structure, config.restraint)[1])
    _say(f"external force: {line}" for line in external_forces(setup.structure, config.external_force)[1])
    notes: dict[str, None] = {}  # each once, in order
    for part in parts:
        notes |= dict.fromkeys(_check_part(part, setup, f"stage {part.name}: " if config.stage else ""))
    _say(notes)
    if config.stage or not parts[0].config.temperature_ramp.is_constant or parts[0].config.pressure_from is not None:
        _say(f"{part.name}: {_course_line(part)}" for part in parts)
    return parts


def _check_part(part: Part, setup: SetUp, where: str) -> list[str]:
    """Notes on one part. Raises InputError for what it cannot do."""
    config, npt = part.config, part.config.ensemble == "npt"
    if npt and (setup.masses == 0).any():
        raise InputError(
            f"{where}atoms that do not move (--freeze, or fixed by the file) with --ensemble npt: a barostat scales "
            "the box with all that is in it, also atoms that are to stay where they are. Use nvt, --freeze none, or a "
            "[[restraint]] of kind position."
        )
    notes = preflight.check_box(setup.structure, setup.model.r_max, npt=npt)
    notes += preflight.check_timestep(setup.masses, config.timestep)
    if npt and config.barostat in ("anisotropic", "flexible"):
        notes += preflight.check_shape(setup.structure, config.barostat)
    if npt and any(restraint.kind == "position" for restraint in config.restraint):
        notes.append("note: the places that atoms are held at do not scale with the box; this adds to its pressure")
    _scaling(config, setup.structure)
    return notes


def _course_line(part: Part) -> str:
    """What a stage is, in one line."""
    own = part.config
    words = [f"{own.num_steps} steps of {own.timestep:g} fs", own.ensemble, f"{own.temperature_ramp} K"]
    words += [f"{own.pressure_ramp} bar"] * (own.pressure is not None)
    words += [f"restraints {part.restraints}"] * (len(own.restraint) > 0)
    return ", ".join(words + ["minimised first"] * own.minimize)


class Built(NamedTuple):
    """A simulation ready to start, what it keeps, its kernels, the choice of CUDA graphs, and what makes its steps."""

    simulation: app.Simulation
    dynamics: Dynamics
    kernels: KernelChoice
    graph_choice: GraphChoice
    stepper: Stepper


def build(part: Part, setup: SetUp, restart_step: int | None = None) -> Built:
    """The simulation of one part, at the start structure. restart_step : of the checkpoint that it will be set to."""
    config, structure = part.config, setup.structure
    use_device(config)
    dynamics = _dynamics(part, setup)
    model = _force(config, setup)
    barostat = _barostat(config, structure, restart_step) if config.ensemble == "npt" else None
    system = make_system(
        structure.topology,
        model,
        masses=setup.masses,
        barostat=barostat,
        remove_cm_motion=dynamics.counts_cm_removal,
    )
    for force in _beside_the_model(config, setup):
        system.addForce(force)
    platform = _platform(config)
    if config.tensor_cores == "on" and platform.platform.getName() != "CUDA":
        raise InputError(
            f"--tensor-cores on: the platform is {platform.platform.getName()} ({platform.reason}), and tensor cores "
            "are parts of an NVIDIA GPU. Leave the option out, or see `mace-md doctor` for why CUDA is not there."
        )
    choice = choose_graphs(
        config.cuda_graphs,
        platform=platform.platform.getName(), backend=config.backend, kernels=model.kernels, beads=config.beads,
    )  # fmt: skip
    _check_memory(setup, model, platform)
    simulation = make_simulation(structure.topology, system, dynamics, platform, structure.positions)
    if platform.platform.getName() == "CUDA":
        log.info("CUDA graphs: %s (%s)", "yes" if choice.use else "no", choice.reason)
    return Built(simulation, dynamics, model.kernels, choice, _stepper(config, simulation, model, choice))


def _stepper(config: RunConfig, simulation: app.Simulation, model: openmm.Force, graphs: GraphChoice) -> Stepper:
    if graphs.use:
        return GraphStepper(simulation, model, required=config.cuda_graphs == "on")
    if needs_anchors(simulation, model.kernels.name):
        return anchored(simulation, config)
    return Stepper(simulation)


def use_device(config: HardwareOptions) -> None:
    """Let torch, too, take the GPU of --device-index: the trial of the kernels, a committee."""
    if config.device_index is None or not torch.cuda.is_available():
        return
    index, count = config.device_index[0], torch.cuda.device_count()
    if index >= count:
        raise InputError(f"--device-index {index}: torch sees {count} GPU{'s' * (count > 1)} here, counted from 0.")
    torch.cuda.set_device(index)


def _beside_the_model(config: RunConfig, setup: SetUp) -> list[openmm.Force]:
    """Dispersion, restraints, and the user's energies, each kind in a force group of its own."""
    structure = setup.structure
    forces = restraint_forces(structure, config.restraint)[0] + external_forces(structure, config.external_force)[0]
    if setup.functional is not None:
        numbers, periodic = structure.atomic_numbers, structure.box is not None
        forces.append(dispersion_force(numbers, setup.functional, cutoff=config.dispersion_cutoff, periodic=periodic))
    return forces


def _dynamics(part: Part, setup: SetUp) -> Dynamics:
    config = part.config
    restrained = any(restraint.kind == "position" for restraint in config.restraint) and part.restraints.end > 0
    dynamics = make_dynamics(
        setup.masses,
        ensemble=config.ensemble,
        thermostat=config.thermostat,
        temperature=config.temperature_ramp.start,
        friction=config.friction,
        timestep=config.timestep,
        seed=config.seed,
        periodic=setup.structure.box is not None,
        linear=is_linear(setup.structure.positions),
        beads=config.beads,
        anchored=restrained or bool(config.external_force),
    )
    log.info("dynamics: %s; %d degrees of freedom", dynamics.description, dynamics.num_dof)
    return dynamics


def _force(config: HardwareOptions, setup: SetUp) -> openmm.Force:
    tensor_cores = config.tensor_cores == "on"
    if setup.model.is_exported:
        chosen = {"tensor_cores": tensor_cores}
    else:
        chosen = {"kernels": config.kernels, "tensor_cores": tensor_cores, "skin": setup.model.skin}
    if config.platform in ("CPU", "Reference") and config.backend == "torchforce":
        chosen["device"] = "cpu"  # so that a GPU is not asked in vain
    structure = setup.structure
    return make_force(
        structure.topology, setup.model.source, periodic=structure.box is not None, backend=config.backend, **chosen
    )


def _scaling(config: RunConfig, structure: Structure) -> tuple[bool, str] | None:
    """Whether the barostat scales molecules, and the sentence that says so; None without one."""
    if config.ensemble != "npt":
        return None
    rigid, sentence = choose_scaling(structure, config.barostat_scaling)
    if config.beads > 1 and not rigid:
        raise InputError(
            f"--beads {config.beads}: the barostat of path integrals scales molecules only; here {sentence}."
        )
    return rigid, sentence


def _barostat(config: RunConfig, structure: Structure, restart_step: int | None) -> openmm.Force:
    rigid, sentence = _scaling(config, structure)
    barostat = make_barostat(
        config.barostat,
        pressure=config.pressure_ramp.start,
        temperature=config.temperature_ramp.start,
        interval=config.barostat_interval,
        rigid_molecules=rigid,
        seed=config.seed if restart_step is None else seed_after(config.seed, restart_step),
        surface_tension=config.surface_tension or 0.0,
        beads=config.beads,
    )
    log.info(
        "barostat: Monte Carlo, %s, %s bar, every %d steps; %s",
        config.barostat, config.pressure_ramp, config.barostat_interval, sentence,
    )  # fmt: skip
    return barostat


def seed_after(seed: int, step: int) -> int:
    """The seed of a barostat after a restart at `step`.

    OpenMM writes no random numbers of it into its checkpoints: with the seed of the run it would draw those of the
    beginning again, each time it is continued.
    """
    return max(int(np.random.SeedSequence([seed, step + 2**62]).generate_state(1)[0]) >> 1, 1)  # 31 bits


def _platform(config: HardwareOptions) -> PlatformChoice:
    choice = choose_platform(
        config.platform,
        precision=config.precision,
        device_index=None if config.device_index is None else config.device_index[0],
        threads=config.threads,
        deterministic=config.deterministic,
    )
    details = "".join(f", {key} {value}" for key, value in choice.properties.items())
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    plural = "s" if threads > 1 else ""
    log.info("platform: %s%s (%s); %d thread%s for the model", choice.platform.getName(), details, choice.reason,
             threads, plural)  # fmt: skip
    if threads > cores:
        log.warning("warning: %d threads on %d cores wait for each other: --threads %d", threads, cores, cores)
    return choice


def _check_memory(setup: SetUp, force: openmm.Force, choice: PlatformChoice) -> None:
    """The forecast in the log; InputError when the GPU has less. Says nothing without a GPU that torch can ask."""
    if choice.platform.getName() != "CUDA" or not torch.cuda.is_available():
        return
    source = None if setup.model.is_exported else setup.model.source
    needed = forecast(setup.structure, source, force.blob, r_max=setup.model.r_max, skin=setup.model.skin)
    if needed is not None:
        free = torch.cuda.mem_get_info(int(choice.properties.get("DeviceIndex", 0)))[0]
        log.info("%s", check_memory(needed, free, f"the model, {force.kernels.name} kernels,"))


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        log.info("%s", line)
