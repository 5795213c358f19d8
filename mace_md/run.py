"""`mace-md run`: from a structure and a model to a trajectory. `main` reads like the diagram of the command."""

import json
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import openmm
import torch
from openmm import app

from mace_md.config import RunConfig, to_toml
from mace_md.errors import InputError
from mace_md.md import preflight, selfcheck
from mace_md.md.barostat import choose_scaling, make_barostat
from mace_md.md.folder import find_checkpoint, held_log, open_folder
from mace_md.md.force import make_force
from mace_md.md.formats.reader import split_frame
from mace_md.md.integrators import Dynamics, make_dynamics
from mace_md.md.prepare import prepare
from mace_md.md.production import Run, disk_explained
from mace_md.md.reporters import write_topology
from mace_md.md.restart import Checkpoint
from mace_md.md.selfcheck import SelfCheck
from mace_md.md.simulation import choose_platform, is_linear, make_simulation, numbers_stay_finite, warm_up
from mace_md.md.stopping import StopRequest
from mace_md.md.structure import Structure
from mace_md.md.system import make_system
from mace_md.model.artifact import PotentialInfo, is_potential_file, read_info
from mace_md.model.checkpoint import load_model
from mace_md.model.potential import DEFAULT_SKIN
from mace_md.provenance import collect_provenance, sha256_of, write_atomically, write_json

log = logging.getLogger("mace_md")


def main(config: RunConfig) -> int:
    """Run molecular dynamics as `config` says; 0 when it is done. Raises InputError, SafetyStop or CleanStop."""
    started = time.perf_counter()
    with held_log() as held, StopRequest(config.max_hours) as stop:
        checkpoint = _claim(config)
        config = replace(config, seed=_seed(config, checkpoint))
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        structure = _read(config)
        model = _load(config, structure)
        config = replace(config, dtype=model.dtype, skin=model.skin)
        dynamics = _dynamics(config, structure)
        force = _force(config, structure, model)
        system = _system(config, structure, force, dynamics)
        simulation = _simulation(config, structure, system, dynamics)
        check = _prove(config, structure, model, simulation)
        run = Run(config, structure, simulation, dynamics, _identity(config, structure, model), stop, model.r_max)
        if checkpoint is not None:
            run.accept(checkpoint)
        with disk_explained(config.output), numbers_stay_finite("run"):
            open_folder(config.output, held)
            record = _describe(config, structure, model, force.kernels, simulation, check)
            try:
                run.begin() if checkpoint is None else run.resume(checkpoint)
                run.produce()
            finally:
                record["timings"] = {"total_s": time.perf_counter() - started, **run.timings}
                with suppress(OSError):  # a full disk is reported by what filled it
                    write_json(config.output / "run.json", record)
    log.info("done: %s", config.output)
    return 0


def _claim(config: RunConfig) -> Checkpoint | None:
    checkpoint, notes = find_checkpoint(config.output, config.restart)
    _say(notes)
    return checkpoint


def _seed(config: RunConfig, checkpoint: Checkpoint | None) -> int:
    """The seed of the options, of the run that is continued, or a new one. OpenMM's are 31 bits, and 0 means any."""
    if config.seed is not None:
        return config.seed
    if checkpoint is not None:
        return int(checkpoint.identity["seed"])
    return secrets.randbelow(2**31 - 1) + 1


def _read(config: RunConfig) -> Structure:
    """The structure, after every check that needs no model."""
    structure = prepare(config)
    name = structure.path if config.smiles is None else f"SMILES {config.smiles}"
    _say(f"structure: {note}" for note in (f"{name}, {len(structure.positions)} atoms", *structure.notes))
    if config.hydrogens != "keep":
        preflight.check_hydrogens(structure)
    _say(preflight.check_electrons(structure, config.charge))
    _say(preflight.check_contacts(structure))
    _say(preflight.check_timestep(structure, config.timestep))
    return structure


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, or an exported potential of which only the description was read."""

    source: torch.nn.Module | Path  # what make_force takes
    r_max: float  # A
    elements: list[int]  # atomic numbers it can be used for
    facts: dict[str, object]  # name, sha256, licence, level_of_theory, ...
    path: str  # of the file it was read from
    dtype: str
    skin: float  # of the neighbour list, A

    @property
    def is_exported(self) -> bool:
        return not isinstance(self.source, torch.nn.Module)


def _load(config: RunConfig, structure: Structure) -> LoadedModel:
    """The model, after every check of the structure against it."""
    if is_potential_file(config.model):
        info = read_info(config.model)
        _refuse_other_options(config, info)
        elements = sorted(set(info.atomic_numbers))
        facts = asdict(info)
        model = LoadedModel(Path(config.model), info.r_max, elements, facts, config.model, info.dtype, info.skin)
    else:
        dtype = config.dtype or "float32"
        module = load_model(config.model, head=config.head, dtype=dtype)
        elements, facts = module.atomic_numbers.tolist(), asdict(module.info)
        skin = DEFAULT_SKIN if config.skin is None else config.skin
        model = LoadedModel(module, float(module.r_max), elements, facts, module.info.path, dtype, skin)
    _say(_model_lines(config.model, model))
    preflight.check_elements(structure, model.elements, config.model)
    _say(preflight.check_charge_and_spin(structure, config.charge, config.spin, config.model))
    _say(preflight.check_box(structure, model.r_max, npt=config.ensemble == "npt"))
    return model


def _refuse_other_options(config: RunConfig, info: PotentialInfo) -> None:
    """What was fixed at export cannot be chosen any more; saying the same again is fine."""
    for name in ("head", "dtype", "kernels", "skin"):
        wanted, fixed = getattr(config, name), getattr(info, name)
        if wanted not in (None, "auto", fixed):
            raise InputError(
                f"--{name} {wanted}: {config.model} was exported with {name} {fixed}, which is fixed in it. Leave the "
                f"option out, or export the model again with --{name} {wanted}."
            )


def _model_lines(name: str, model: LoadedModel) -> list[str]:
    symbols = " ".join(app.Element.getByAtomicNumber(number).symbol for number in model.elements)
    facts = [
        f"{key.replace('_', ' ')}: {model.facts[key]}" for key in ("head", "level_of_theory", "dispersion", "licence")
    ]
    return [f"model: {name}, cutoff {model.r_max:g} A, elements {symbols}", f"model: {', '.join(facts)}"]


def _dynamics(config: RunConfig, structure: Structure) -> Dynamics:
    dynamics = make_dynamics(
        structure.masses,
        ensemble=config.ensemble,
        thermostat=config.thermostat,
        temperature=config.temperature,
        friction=config.friction,
        timestep=config.timestep,
        seed=config.seed,
        periodic=structure.box is not None,
        linear=is_linear(structure.positions),
    )
    log.info("dynamics: %s; %d degrees of freedom", dynamics.description, dynamics.num_dof)
    return dynamics


def _force(config: RunConfig, structure: Structure, model: LoadedModel) -> openmm.Force:
    chosen = {} if model.is_exported else {"kernels": config.kernels, "skin": model.skin}
    return make_force(
        structure.topology, model.source, periodic=structure.box is not None, backend=config.backend, **chosen
    )


def _system(config: RunConfig, structure: Structure, force: openmm.Force, dynamics: Dynamics) -> openmm.System:
    barostat = None
    if config.ensemble == "npt":
        rigid, sentence = choose_scaling(structure, config.barostat_scaling)
        barostat = make_barostat(
            config.barostat,
            pressure=config.pressure,
            temperature=config.temperature,
            interval=config.barostat_interval,
            rigid_molecules=rigid,
            seed=config.seed,
            surface_tension=config.surface_tension or 0.0,
        )
        log.info(
            "barostat: Monte Carlo, %s, %g bar, every %d steps; %s",
            config.barostat,
            config.pressure,
            config.barostat_interval,
            sentence,
        )
    return make_system(structure.topology, force, barostat=barostat, remove_cm_motion=dynamics.counts_cm_removal)


def _simulation(config: RunConfig, structure: Structure, system: openmm.System, dynamics: Dynamics) -> app.Simulation:
    choice = choose_platform(
        config.platform, precision=config.precision, device_index=config.device_index, threads=config.threads
    )
    details = "".join(f", {key} {value}" for key, value in choice.properties.items())
    log.info(
        "platform: %s%s (%s); %d threads for the model",
        choice.platform.getName(),
        details,
        choice.reason,
        torch.get_num_threads(),
    )
    return make_simulation(structure.topology, system, dynamics, choice, structure.positions)


def _prove(config: RunConfig, structure: Structure, model: LoadedModel, simulation: app.Simulation) -> SelfCheck | None:
    """Compare the force on the platform in use with the plain float64 model; SafetyStop when it deviates.

    An exported potential no longer has the plain model: it was compared when it was written, and its slopes are here.
    """
    if config.check == "skip":
        log.info("self-check: skipped, as asked")
        warm_up(simulation)
        return None
    reference = None if model.is_exported else load_model(config.model, head=config.head, dtype=torch.float64)
    with numbers_stay_finite("self-check"):
        check = selfcheck.check_forces(
            simulation.context,
            reference,
            structure.atomic_numbers,
            force_limit=config.check_force_limit,
            energy_limit=config.check_energy_limit,
        )
    _say(check.lines())
    selfcheck.require(check)
    return check


# Options that make a continued run another run. Length, speed and hardware may change.
_IDENTITY = (
    "head", "charge", "spin", "ensemble", "temperature", "thermostat", "friction", "pressure", "barostat",
    "surface_tension", "barostat_interval", "barostat_scaling", "timestep", "equilibration_steps", "seed", "dtype",
    "periodic", "box", "smiles", "virtual_sites", "hydrogens", "ph", "repair", "supercell", "solvate", "box_shape",
    "ion_concentration", "neutralize", "positive_ion", "negative_ion", "solute_charge", "wrap", "trajectory_format",
    "trajectory_interval", "report_interval",
)  # fmt: skip


def _identity(config: RunConfig, structure: Structure, model: LoadedModel) -> dict[str, object]:
    """What must not change for --restart to continue the same run."""
    return {
        "structure (sha256)": " ".join(map(sha256_of, structure.files)),
        "frame": None if config.structure is None else split_frame(config.structure)[1],
        "model (sha256)": sha256_of(model.path),
    } | {name: getattr(config, name) for name in _IDENTITY}


def _describe(config, structure, model, kernels, simulation, check) -> dict[str, object]:
    """Write run.toml, run.json and the topology; returns the record, which gets the timings at the end."""
    record = collect_provenance(
        config,
        inputs=_inputs(structure) | {"model": model.path},
        model=model.facts,
        seed=config.seed,
        platform=simulation.context.getPlatform().getName(),
        kernels=kernels._asdict(),
        notes=list(structure.notes),
        self_check=check,
        earlier=_earlier_records(config.output / "run.json"),
    )
    write_atomically(config.output / "run.toml", to_toml(config, config.output))
    write_json(config.output / "run.json", record)
    if not any((config.output / name).exists() for name in ("topology.pdb", "topology.cif")):
        write_topology(config.output, structure)
    return record


def _inputs(structure: Structure) -> dict[str, Path]:
    names = ("structure", "coordinates")
    return dict(zip(names, structure.files, strict=False))


def _earlier_records(path: Path) -> list[dict[str, object]]:
    """The records of the parts of this run before a restart, oldest first."""
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    return [*record.pop("earlier", []), record]


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        log.info("%s", line)
