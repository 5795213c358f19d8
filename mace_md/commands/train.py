"""`mace-md train`: from labelled frames to a model. `main` reads like the diagram of the command."""

import io
import logging
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mace_md.config import TrainConfig, to_toml
from mace_md.errors import CleanStop, InputError, SafetyStop
from mace_md.model.descriptors import descriptor_statistics
from mace_md.model.mace import MACE
from mace_md.model.reading.checkpoint import describe_model, load_model, save_model
from mace_md.options.declare import fixed_options
from mace_md.output import held_folder, held_log, open_folder, refuse_content, room_explained
from mace_md.provenance import collect_provenance, sha256_of, versions, write_atomically, write_json
from mace_md.stopping import StopRequest
from mace_md.training.batches import iterate_batches
from mace_md.training.finetuning import REPLAY_HEAD, report_replay
from mace_md.training.optimizer import freeze_parts
from mace_md.training.preparation import Start, TrainingData, origin_of, prepare, read_training_data
from mace_md.training.processes import Processes, device_of, joined_processes
from mace_md.training.report import MetricsTable, ProgressBar, describe, draw_learning_curve, errors_in_words
from mace_md.training.trainer import EpochRecord, Trainer

log = logging.getLogger("mace_md")

CHECKPOINT, MODEL, STAGE_ONE, METRICS = "checkpoint.pt", "model.mace", "model_stage_one.mace", "metrics.csv"

FRAMES_DESCRIBED = 2000  # training frames of which a model file keeps the statistics of the descriptors


def main(config: TrainConfig) -> int:
    """Train as `config` says; 0 when it is done. Raises InputError, SafetyStop or CleanStop."""
    with room_explained(config.output, lambda: _what_is_safe(config)):
        return _main(config)


def _what_is_safe(config: TrainConfig) -> str:
    folders = [config.output / f"seed-{seed}" for seed in config.seeds or ()] or [config.output]
    if any((folder / CHECKPOINT).exists() for folder in folders):
        return f"the checkpoint in {config.output} is good: make room and continue with the same command and --restart"
    return "no epoch was saved yet: make room and repeat the command with --restart"


def _main(config: TrainConfig) -> int:
    started = time.perf_counter()
    device = device_of(config.device)
    with (
        joined_processes(device) as processes,
        held_folder(config.output) if processes.is_first else nullcontext(),
        held_log() as held,
        StopRequest(config.max_hours) as stop,
    ):
        if processes.is_first:
            refuse_content(config.output, config.restart)
        else:
            log.setLevel(logging.WARNING)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        data = read_training_data(config)
        start = prepare(config, data, device)
        run = Run(config, data, start, device, processes, stop)
        if processes.is_first:
            open_folder(config.output, held, "train.log")
            _describe(config, data, start)
        seeds = config.seeds or (config.seed,)
        results = []
        for seed in seeds:
            folder = config.output / f"seed-{seed}" if config.seeds else config.output
            results.append(run.member(replace(config, seed=seed, seeds=None), folder))
        if processes.is_first:
            _conclude(config, start, results, time.perf_counter() - started)
            log.info("done: %s", config.output)
    return 0


@dataclass(frozen=True)
class Member:
    """One trained model."""

    seed: int
    model: Path
    epoch: int
    errors: dict[str, float]  # of the kept weights, on the validation frames


@dataclass(frozen=True)
class Run:
    """What the members of a committee share."""

    config: TrainConfig
    data: TrainingData
    start: Start
    device: torch.device
    processes: Processes
    stop: StopRequest

    def member(self, config: TrainConfig, folder: Path) -> Member:
        """Train one model in its folder, or continue; raises CleanStop with a checkpoint when it is stopped."""
        model = self.start.model(config.seed, getattr(torch, config.dtype), self.device)
        freeze_parts(model, config.freeze)
        trainer = Trainer(
            model, self.start.train, self.start.valid, config,
            with_stress=self.data.with_stress, processes=self.processes,
        )  # fmt: skip
        identity = _identity(config)
        state = _read_checkpoint(folder / CHECKPOINT, identity) if config.restart else None
        if state is not None:
            trainer.load_state_dict(state["trainer"])
        n_weights = sum(weight.numel() for weight in trainer.weights)
        log.info("seed %d: %d weights to train, on %s", config.seed, n_weights, self.device)
        files = MemberFiles(folder, trainer, identity, self, config)
        if state is None:
            log.info("before training: RMSE %s", errors_in_words(trainer.validate()))
        else:
            log.info("continued after epoch %d", trainer.progress.epoch)
            if state["finished"] and trainer.is_done:
                return files.member()
        with ProgressBar(config.epochs, trainer.progress.epoch, config.quiet or not self.processes.is_first) as bar:
            files.watch(bar)
            finished = files.train()
        if not finished:
            raise CleanStop(
                f"{self.stop.reason()}: after {trainer.progress.epoch} epochs. {files.kept()}Continue with --restart."
            )
        return files.member()


class MemberFiles:
    """Trains one model and keeps its folder up to date: table, checkpoint, best model, figure."""

    def __init__(self, folder: Path, trainer: Trainer, identity: dict, run: Run, config: TrainConfig):
        self.folder, self.trainer, self.identity, self.run, self.config = folder, trainer, identity, run, config
        self.writes = run.processes.is_first
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
        self.table = MetricsTable(folder / METRICS, trainer.progress.epoch) if self.writes else None
        self.bar: ProgressBar | None = None

    def watch(self, bar: ProgressBar) -> None:
        """Show on this bar from now on."""
        self.bar = bar

    def train(self) -> bool:
        """Train to the end; False when it was stopped. Either way, everything is on disk after."""
        try:
            finished = self.trainer.run(
                self._epoch, lambda step, steps: self.bar.step(step, steps), lambda: self.run.stop.reason() is not None
            )
        except SafetyStop:
            self._draw()
            raise
        if finished and self.writes:
            self._write_statistics()
        self._save(finished)
        self._draw()
        return finished

    def _epoch(self, record: EpochRecord) -> None:
        if not self.writes:
            return
        row = self.table.add(record)
        self.bar.epoch(record)
        every = max(1, self.config.epochs // 100)
        if record.epoch == 1 or record.epoch % every == 0:
            with self.bar.set_aside():
                log.info("%s", describe(record))
        if record.improved:
            self._write_model(row)
        if record.epoch % self.config.checkpoint_interval == 0:
            self._save(False)

    def _write_model(self, row: dict[str, float]) -> None:
        path = self.folder / MODEL
        if row["stage"] == 2 and not (self.folder / STAGE_ONE).exists() and path.exists():
            os.replace(path, self.folder / STAGE_ONE)
        model = self._best_model()
        save_model(model, path, provenance=_provenance(self.config, self.run, row), overwrite=True)

    def _best_model(self) -> MACE:
        model = self.trainer.best_model().cpu()
        name = self.config.output.name if self.config.seeds is None else self.folder.name
        model.info = origin_of(self.trainer.model, self.config, name)
        return model

    def _write_statistics(self) -> None:
        """Put into the finished model what tells known environments of atoms from unknown ones."""
        path, trainer = self.folder / MODEL, self.trainer
        chosen = np.linspace(0, len(trainer.train) - 1, min(len(trainer.train), FRAMES_DESCRIBED)).astype(int)
        groups = np.array_split(chosen, -(-len(chosen) // self.config.valid_batch_size))
        graphs = (batch.graph for batch in iterate_batches(trainer.train, groups))
        statistics = descriptor_statistics(trainer.best_model(), graphs)
        model = self._best_model()
        model.descriptor_statistics = statistics
        save_model(model, path, provenance=describe_model(path)[2], overwrite=True)

    def _save(self, finished: bool) -> None:
        if self.writes:
            content = {"identity": self.identity, "finished": finished, "trainer": self.trainer.state_dict()}
            _write_checkpoint(self.folder / CHECKPOINT, content)

    def _draw(self) -> None:
        if self.writes and self.table.rows:
            for suffix in ("png", "svg"):
                draw_learning_curve(self.table.rows, self.folder / f"learning_curve.{suffix}", self.folder.name)

    def kept(self) -> str:
        """A sentence on the best model."""
        path = self.folder / MODEL
        return f"The best model so far is {path}. " if path.exists() else ""

    def member(self) -> Member:
        """The finished model."""
        best = self.trainer.progress.best_epoch
        rows = [] if self.table is None else [row for row in self.table.rows if row["epoch"] == best]
        errors = {k: v for k, v in (rows[0] if rows else {}).items() if k.startswith(("mae", "rmse", "valid_loss"))}
        return Member(self.config.seed, self.folder / MODEL, best, errors)


# --- beginning and end ---


def _identity(config: TrainConfig) -> dict[str, object]:
    """What must not change for --restart to continue the same training."""
    files = [*config.data, *(config.valid or ()), *(path for path in (config.valid_index, config.e0s_file) if path)]
    if config.start_from and Path(config.start_from).is_file():
        files.append(Path(config.start_from))
    files += config.replay or ()
    options = {name: getattr(config, name) for name in fixed_options(TrainConfig)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    return {"seed": config.seed, "files (sha256)": [sha256_of(path) for path in files]} | plain


def _read_checkpoint(path: Path, identity: dict[str, object]) -> dict | None:
    if not path.exists():
        log.info("--restart: %s holds no checkpoint; the training starts at its beginning", path.parent)
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        before = state["identity"]
    except Exception as error:  # torch raises whatever its parts raise for a damaged file
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error})") from None
    changed = [key for key in identity if before.get(key) != identity[key]]
    if changed:
        key = changed[0]
        raise InputError(
            f"{path}: it belongs to a training with another {key} ({before.get(key)}; now {identity[key]}). Continue "
            "with the same options (--config train.toml of that folder), or choose another --output."
        )
    return state


def _write_checkpoint(path: Path, content: dict) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def _provenance(config: TrainConfig, run: Run, row: dict[str, float]) -> dict[str, object]:
    """What is kept in the model file of how it came about."""
    return {
        "start_from": config.start_from,
        "data": {str(path): sha256_of(path) for path in (*config.data, *(config.valid or ()))},
        "frames": {"train": len(run.data.train), "valid": len(run.data.valid)},
        "e0s": run.start.e0s.origin,
        "seed": config.seed,
        "epoch": int(row["epoch"]),
        "valid": {key: value for key, value in row.items() if key.startswith(("rmse", "mae"))},
        "options": to_toml(config),
        "versions": versions(),
    }


def _describe(config: TrainConfig, data: TrainingData, start: Start) -> None:
    """Write train.toml and train.json."""
    files = {f"data {i}": path for i, path in enumerate(config.data)}
    files |= {f"valid {i}": path for i, path in enumerate(config.valid or ())}
    files |= {f"replay {i}": path for i, path in enumerate(config.replay or ())}
    if config.e0s_file is not None:
        files["e0s"] = config.e0s_file
    record = collect_provenance(
        config,
        inputs=files,
        frames={"train": len(data.train), "valid": len(data.valid)},
        e0s={"origin": start.e0s.origin, "eV": start.e0s.values},
        statistics=start.statistics,
        architecture=start.architecture.to_dict(),
        notes=list(data.notes),
    )
    write_atomically(config.output / "train.toml", to_toml(config, config.output))
    write_json(config.output / "train.json", record)


def _conclude(config: TrainConfig, start: Start, results: list[Member], seconds: float) -> None:
    import json

    remembered = []
    for member in results:
        log.info("model: %s, epoch %d: %s", member.model, member.epoch, _errors(member.errors))
        if start.replay is not None:
            remembered.append(report_replay(load_model(member.model, head=REPLAY_HEAD), start.replay))
    path = config.output / "train.json"
    record = json.loads(path.read_text())
    members = [asdict(member) | {"model": str(member.model.relative_to(config.output))} for member in results]
    record |= {"timings": {"total_s": seconds}, "models": members}
    if remembered:
        record["replay"] = remembered
    write_json(path, record)
    if config.seeds:
        write_json(config.output / "committee.json", {"format": 1, "members": members})
        log.info("committee: %s", config.output / "committee.json")


def _errors(errors: dict[str, float]) -> str:
    named = (
        ("rmse_energy_per_atom_meV", "energy {:.3f} meV/atom"),
        ("rmse_forces_meV_per_A", "forces {:.2f} meV/A"),
        ("rmse_stress_meV_per_A3", "stress {:.3f} meV/A^3"),
    )
    return "validation RMSE " + ", ".join(text.format(errors[key]) for key, text in named if key in errors)
