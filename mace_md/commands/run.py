"""`mace-md run`: from a structure and a model to a trajectory. `main` reads like the diagram of the command."""

import json
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from openmm import app

from mace_md.config import RunConfig, to_toml
from mace_md.errors import InputError
from mace_md.md.assembly import Built, SetUp, build, checked_parts, set_up
from mace_md.md.dynamics.stages import Carried, Part
from mace_md.md.files.identity import Identity, System, identity_of_run
from mace_md.md.files.reporters import write_topology
from mace_md.md.files.restart import Checkpoint, find_checkpoint
from mace_md.md.forces.restraints import MODEL_GROUP
from mace_md.md.loaded import LoadedModel
from mace_md.md.many.replicas import replicas_of, run_each
from mace_md.md.many.workers import run_at_once
from mace_md.md.stepping.numerics import numerics_of, precision_notes, precision_of, repeatable
from mace_md.md.stepping.production import Run
from mace_md.md.stepping.properties import Properties
from mace_md.md.stepping.simulation import warm_up
from mace_md.md.watch import selfcheck
from mace_md.md.watch.faults import faults_explained
from mace_md.md.watch.finite import numbers_stay_finite
from mace_md.md.watch.selfcheck import SelfCheck
from mace_md.md.watch.uncertainty import Judges, judges_of
from mace_md.model.artifact import PotentialInfo, is_potential_file, read_info
from mace_md.model.families import gives_energy
from mace_md.model.potential import DEFAULT_SKIN
from mace_md.model.reading.checkpoint import load_model
from mace_md.model.reading.zoo import identify
from mace_md.model.settle import settle
from mace_md.output import held_folder, held_log, open_folder
from mace_md.provenance import collect_provenance, write_atomically, write_json
from mace_md.stopping import StopRequest
from mace_md.structures import preflight
from mace_md.structures.prepare import prepare
from mace_md.structures.structure import Structure

log = logging.getLogger("mace_md")


def main(config: RunConfig) -> int:
    """Run molecular dynamics as `config` says, once or for several seeds and temperatures; 0 when all is done.

    Raises InputError, SafetyStop or CleanStop.
    """
    replicas = replicas_of(config)
    if not replicas:
        return run_once(config)
    if config.num_processes > 1:
        return run_at_once(config, replicas)
    return run_each(config, replicas, run_once)


def run_once(config: RunConfig) -> int:
    """One run in one folder."""
    started = time.perf_counter()
    with (
        held_folder(config.output),
        held_log() as held,
        StopRequest(config.max_hours) as stop,
        repeatable(config.deterministic),
    ):
        checkpoint = _claim(config)
        config = replace(config, seed=_seed(config, checkpoint))
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        structure = _read(config)
        model = _load(config, structure)
        config = replace(config, dtype=model.dtype, skin=model.skin)
        setup = set_up(config, structure, model)
        parts = checked_parts(config, setup)
        part, *later = _left(parts, checkpoint)
        built = build(part, setup, None if checkpoint is None else checkpoint.step)
        _say(_precision_lines(config, setup, built))
        check = _prove(config, setup, built.simulation)
        judges = judges_of(config, structure, model)
        properties = Properties(config, structure, model)
        system = System.of(structure, setup.masses, config.charge)
        identity = identity_of_run(config, system, structure.files, model.path, judges.identity | properties.identity)
        run = _run(part, setup, built, identity, stop, judges, properties)
        if checkpoint is not None:
            run.accept(checkpoint)
        with faults_explained(config.output), numbers_stay_finite("run"):
            open_folder(config.output, held)
            record = _describe(config, setup, built, check, new=checkpoint is None)
            try:
                run.begin() if checkpoint is None else run.resume(checkpoint)
                run.produce()
                for part in later:
                    record[f"timings of {run.part.name}"] = run.timings
                    carried = Carried.out_of(run.simulation)
                    run = _run(part, setup, build(part, setup), identity, stop, judges, properties, after=run)
                    warm_up(run.simulation)
                    run.begin(carried)
                    run.produce()
                properties.finish(config.output)
            finally:
                for entry, found in run.stepper.record().items():
                    record[entry] = record.get(entry, {}) | found
                record["timings"] = {"total_s": time.perf_counter() - started, **run.timings}
                with suppress(OSError):  # a full disk is reported by what filled it
                    write_json(config.output / "run.json", record)
    log.info("done: %s", config.output)
    return 0


def _precision_lines(config: RunConfig, setup: SetUp, built: Built) -> list[str]:
    structure, context = setup.structure, built.simulation.context
    extent = float(np.abs(structure.positions if structure.box is None else structure.box).max())
    return precision_notes(
        precision_of(context, setup.model.dtype), config.precision, extent, platform=context.getPlatform().getName()
    )


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
    return structure


def _load(config: RunConfig, structure: Structure) -> LoadedModel:
    """The model, after every check of the structure against it."""
    if is_potential_file(config.model):
        if not config.trust_pickle:
            raise InputError(
                f"{config.model}: an exported potential is a program (TorchScript), which a run executes. If you, or "
                "people you trust, made the file, say --trust-pickle; .mace and .model files are only data."
            )
        info = read_info(config.model)
        _refuse_other_options(config, info)
        elements = sorted(set(info.atomic_numbers))
        facts = asdict(info)
        model = LoadedModel(Path(config.model), info.r_max, elements, facts, config.model, info.dtype, info.skin)
    else:
        dtype = config.dtype or "float32"
        module = _settled(load_model(config.model, head=config.head, dtype=dtype), config, structure)
        elements, facts = module.atomic_numbers.tolist(), asdict(module.info) | getattr(module, "settled", {})
        skin = DEFAULT_SKIN if config.skin is None else config.skin
        model = LoadedModel(module, float(module.r_max), elements, facts, module.info.path, dtype, skin)
    _say(_model_lines(config.model, model))
    preflight.check_elements(structure, model.elements, config.model)
    uses = tuple(name for name in ("charge", "spin") if model.facts.get(name) is not None)
    _say(preflight.check_charge_and_spin(structure, config.charge, config.spin, config.model, uses))
    if len(uses) == 2:
        charge, spin = int(model.facts["charge"]), int(model.facts["spin"])
        _say(preflight.check_multiplicity(structure, charge, spin, config.model))
    return model


def _settled(module: torch.nn.Module, config: RunConfig, structure: Structure) -> torch.nn.Module:
    """The model for the charge and spin of the options, or of the structure file; one that uses neither as it is."""
    if not gives_energy(module):
        raise InputError(
            f"{config.model} gives dipoles, no energies: it cannot drive a run. Take an energy model with --model, and "
            f"this one with --property-model {config.model} --properties dipole"
        )
    inputs = {}
    for name in module.inputs:
        option = getattr(config, name, None)
        inputs[name] = getattr(structure, name, None) if option is None else option
    return settle(module, **inputs)


def _refuse_other_options(config: RunConfig, info: PotentialInfo) -> None:
    """What was fixed at export cannot be chosen any more; saying the same again is fine."""
    for name in ("head", "charge", "spin", "dtype", "kernels", "skin"):
        wanted, fixed = getattr(config, name), getattr(info, name)
        has_input = name not in ("charge", "spin") or fixed is not None  # what it has no input for is said elsewhere
        if wanted not in (None, "auto", fixed) and has_input:
            raise InputError(
                f"--{name} {wanted}: {config.model} was exported with {name} {fixed}, which is fixed in it. Leave the "
                f"option out, or export the model again with --{name} {wanted}."
            )


def _model_lines(name: str, model: LoadedModel) -> list[str]:
    symbols = " ".join(app.Element.getByAtomicNumber(number).symbol for number in model.elements)
    facts = [
        f"{key.replace('_', ' ')}: {model.facts[key]}" for key in ("head", "level_of_theory", "dispersion", "licence")
    ]
    lines = [f"model: {name}, cutoff {model.r_max:g} A, elements {symbols}", f"model: {', '.join(facts)}"]
    known = identify(str(model.facts.get("sha256") or model.facts.get("model_sha256")))
    return [*lines, f"model: {known.name} is {known.advice}"] if known and known.advice else lines


def _left(parts: list[Part], checkpoint: Checkpoint | None) -> list[Part]:
    """The parts to do: from the one a checkpoint is of. Whether it fits is asked by `Run.accept`."""
    names = [part.name for part in parts]
    return parts[names.index(checkpoint.part) if checkpoint is not None and checkpoint.part in names else 0 :]


def _run(
    part: Part,
    setup: SetUp,
    built: Built,
    identity: Identity,
    stop: StopRequest,
    judges: Judges,
    properties: Properties,
    after: Run | None = None,
) -> Run:
    """`after`: the part before."""
    uncertainty = None
    if part.is_last:
        uncertainty = judges.uncertainty(part.config, built.simulation, part.config.output, part.config.timestep)
    return Run(
        part.config, setup.structure, built.simulation, built.dynamics, identity, stop,
        numerics=numerics_of(
            part.config, built.simulation.context.getPlatform().getName(), built.kernels.name, setup.model.skin
        ),
        part=part, atoms=setup.in_trajectory, r_max=setup.model.r_max, finished=after.sizes() if after else None,
        stepper=built.stepper, uncertainty=uncertainty,
        hooks=properties.hooks(part.config, built.simulation) if part.is_last else (),
    )  # fmt: skip


def _prove(config: RunConfig, setup: SetUp, simulation: app.Simulation) -> SelfCheck | None:
    """Compare the force on the platform in use with the plain float64 model; SafetyStop when it deviates.

    An exported potential no longer has the plain model: it was compared when it was written, and its slopes are here.
    """
    if config.check == "skip":
        log.info("self-check: skipped, as asked")
        warm_up(simulation)
        return None
    precision = precision_of(simulation.context, setup.model.dtype)
    reference = None
    if not setup.model.is_exported:
        reference = load_model(config.model, head=config.head, dtype=torch.float64, announce=False)
        reference = _settled(reference, config, setup.structure)
    with numbers_stay_finite("self-check"):
        check = selfcheck.check_forces(
            simulation.context,
            reference,
            setup.structure.atomic_numbers,
            force_limit=config.check_force_limit,
            energy_limit=config.check_energy_limit,
            float64=precision.model == precision.positions == "float64",
            groups={MODEL_GROUP},
        )
    _say(check.lines())
    selfcheck.require(check)
    return check


def _describe(
    config: RunConfig, setup: SetUp, built: Built, check: SelfCheck | None, *, new: bool
) -> dict[str, object]:
    """Write run.toml, run.json and the topology; returns the record, which gets the timings at the end."""
    structure, model = setup.structure, setup.model
    record = collect_provenance(
        config,
        inputs=_inputs(structure) | {"model": model.path},
        model=model.facts,
        seed=config.seed,
        platform=built.simulation.context.getPlatform().getName(),
        kernels=built.kernels._asdict(),
        cuda_graphs=built.graph_choice._asdict(),
        precision=precision_of(built.simulation.context, model.dtype)._asdict(),
        notes=list(structure.notes),
        self_check=check,
        earlier=_earlier_records(config.output / "run.json"),
    )
    write_atomically(config.output / "run.toml", to_toml(config, config.output))
    write_json(config.output / "run.json", record)
    if new or not any((config.output / name).exists() for name in ("topology.pdb", "topology.cif")):
        write_topology(config.output, structure, atoms=setup.in_trajectory)
        if setup.in_trajectory is not None:
            write_topology(config.output, structure, name="system")
    return record


def _inputs(structure: Structure) -> dict[str, Path]:
    named, included = structure.files[:2], structure.files[2:]
    found = dict(zip(("structure", "coordinates"), named, strict=False))
    return found | {f"included {number}": path for number, path in enumerate(included, start=1)}


def _earlier_records(path: Path) -> list[dict[str, object]]:
    """The records of the parts of this run before a restart, oldest first."""
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text())
        return [*record.pop("earlier", []), record]
    except (ValueError, AttributeError, TypeError, RecursionError):
        _say([f"{path} is damaged: the records of the earlier parts are not carried on"])
        return []


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        log.info("%s", line)
