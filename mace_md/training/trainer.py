"""The optimisation: epochs of steps, validation, schedules, two stages, and a state that can be put down and taken up.

Order of the data, and with it every number, follows from (seed, epoch): a training that is stopped between two steps
and continued from its state gives the same weights, bit by bit, as one that was not.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mace_md.config import TrainConfig
from mace_md.errors import SafetyStop
from mace_md.model.mace import MACE
from mace_md.training.batches import Batch, LazyGraphs, PackedGraphs, iterate_batches
from mace_md.training.evaluators import check_at_start, make_evaluator
from mace_md.training.loss import Loss
from mace_md.training.metrics import ValidationErrors, evaluate_errors, index_groups
from mace_md.training.optimizer import MovingAverage, make_optimizer
from mace_md.training.processes import Processes


@dataclass
class Progress:
    """Where a training stands."""

    epoch: int = 0  # epochs that are done
    steps_done: int = 0  # in the epoch that is running
    stage: int = 1
    best_loss: float = float("inf")  # of the stage, on the validation frames
    best_epoch: int = 0
    since_best: int = 0  # epochs
    loss_sum: float = 0.0  # over the frames of the running epoch
    seconds: float = 0.0  # of the running epoch, in steps


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch did."""

    epoch: int
    stage: int
    lr: float
    train_loss: float  # mean over the steps, each with the weights of its time
    valid: ValidationErrors
    improved: bool
    seconds: float
    structures_per_s: float  # trained


class Trainer:
    """Trains a model on graphs; `config` says how (its options of optimisation only are used).

    Frozen weights (`requires_grad` False) stay as they are. `model` holds the trained weights; `best_state` those of
    the moving average (if any) at the lowest validation loss of the stage.
    """

    def __init__(
        self,
        model: MACE,
        train: PackedGraphs | LazyGraphs,
        valid: PackedGraphs | LazyGraphs,
        config: TrainConfig,
        *,
        with_stress: bool = False,
        processes: Processes | None = None,
    ):
        self.model, self.train, self.valid, self.config = model, train, valid, config
        self.processes = processes or Processes()
        self.with_stress = with_stress
        self.progress = Progress()
        self.optimizer = make_optimizer(model, config.optimizer, config.lr, config.weight_decay, config.amsgrad)
        self.scheduler = _make_scheduler(self.optimizer, config)
        self.average = MovingAverage(model, config.ema) if config.ema > 0 else None
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.evaluator = make_evaluator(model, config.kernels)
        self.best_state: dict[str, Tensor] | None = None
        self._seed = 1 if config.seed is None else config.seed

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def loss(self) -> Loss:
        """The loss of the stage."""
        config, two = self.config, self.progress.stage == 2
        stress = config.stage_two_stress_weight if two else config.stress_weight
        default = 10.0 if two else 1.0
        return Loss(
            energy_weight=config.stage_two_energy_weight if two else config.energy_weight,
            forces_weight=config.stage_two_forces_weight if two else config.forces_weight,
            stress_weight=(default if stress is None else stress) if self.with_stress else 0.0,
            kind=config.loss,
            huber_delta=config.huber_delta,
        )

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train: all epochs, or no improvement for `patience` in the last stage."""
        last_stage = self.progress.stage == 2 or not self.config.stage_two
        out_of_patience = last_stage and self.progress.since_best >= self.config.patience
        return out_of_patience or self.progress.epoch >= self.config.epochs

    def run(
        self,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
        on_step: Callable[[int, int], None] = lambda step, steps: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end; False when `should_stop` ended it before, between two steps.

        `on_epoch` is called after each epoch, `on_step` with (steps done, steps in the epoch) after each step. Raises
        SafetyStop when the loss is no number any more, and when the native kernels do not give the plain model's
        gradients.
        """
        if not self.is_done:
            check_at_start(self.model, self.evaluator, self.train, self.loss)
        while not self.is_done:
            if self._stage_one_is_over():
                self._begin_stage_two()
                continue
            if not self._train_epoch(on_step, should_stop):
                return False
            on_epoch(self._finish_epoch())
        return True

    def validate(self) -> ValidationErrors:
        """Errors of the averaged weights on the validation frames."""
        share = (self.processes.rank, self.processes.size)
        with self.average.in_place() if self.average else nullcontext():
            return evaluate_errors(
                self.model, self.valid, self.loss, self.config.valid_batch_size, share, self.processes.add_up,
                self.evaluator,
            )  # fmt: skip

    def averaged_state(self) -> dict[str, Tensor]:
        """A copy of the model's state with the averaged weights."""
        with self.average.in_place() if self.average else nullcontext():
            return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    # --- one epoch ---

    def _train_epoch(self, on_step: Callable[[int, int], None], should_stop: Callable[[], bool]) -> bool:
        progress = self.progress
        order = np.random.default_rng([self._seed, progress.epoch]).permutation(len(self.train))
        groups = index_groups(order, self.config.batch_size)
        loss = self.loss
        waiting = groups[progress.steps_done :]
        shares = [self.processes.share_of(group) for group in waiting]
        batches = iterate_batches(self.train, shares, self._prepare)
        for group in waiting:
            if self.processes.any(should_stop()):
                return False
            started = time.perf_counter()
            batch, prepared = next(batches) or (None, None)
            value = self._step(batch, loss, prepared)
            progress.seconds += time.perf_counter() - started
            progress.loss_sum += value * len(group)
            progress.steps_done += 1
            on_step(progress.steps_done, len(groups))
        return True

    def _prepare(self, batch: Batch) -> tuple[Batch, Any]:
        return batch, self.evaluator.prepare(batch.graph)

    def _step(self, batch: Batch | None, loss: Loss, prepared: Any = None) -> float:
        """One step of the optimiser; returns the loss of the whole batch before it. `prepared`: of the evaluator."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = counts = torch.zeros(3, dtype=torch.float64, device=self.model.embedding.device)
        if batch is not None:
            prepared = self.evaluator.prepare(batch.graph) if prepared is None else prepared
            prediction = self.evaluator.predict(prepared, stress=loss.with_stress, training=True)
            sums, counts = loss.terms(batch, prediction)
        counts = counts.clone()
        self.processes.add_up(counts)
        value = (sums / counts.clamp(min=1.0)).sum()
        if value.requires_grad:
            value.backward(inputs=self.weights)
        self.processes.add_up_gradients(self.weights)
        total = value.detach().clone()
        self.processes.add_up(total)
        number = float(total)
        if not np.isfinite(number):
            raise SafetyStop(
                f"epoch {self.progress.epoch + 1}, step {self.progress.steps_done + 1}: the loss is {number}. "
                "Lower --lr or --clip-grad, or look for odd frames in the data; the best model so far is kept."
            )
        if self.config.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip_grad)
        self.optimizer.step()
        if self.average:
            self.average.update()
        return number

    def _finish_epoch(self) -> EpochRecord:
        progress, lr = self.progress, self.lr
        errors = self.validate()
        progress.epoch += 1
        improved = errors.loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best_epoch, progress.since_best = errors.loss, progress.epoch, 0
            self.best_state = self.averaged_state()
        else:
            progress.since_best += 1
        n = len(self.train)
        record = EpochRecord(
            progress.epoch, progress.stage, lr, progress.loss_sum / n, errors, improved, progress.seconds,
            n / max(progress.seconds, 1e-9),
        )  # fmt: skip
        progress.steps_done, progress.loss_sum, progress.seconds = 0, 0.0, 0.0
        if progress.stage == 1 and self.scheduler is not None:
            with_metric = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            self.scheduler.step(errors.loss) if with_metric else self.scheduler.step()
        return record

    # --- stages ---

    def _stage_one_is_over(self) -> bool:
        progress, config = self.progress, self.config
        if not config.stage_two or progress.stage == 2 or progress.steps_done:
            return False
        return progress.epoch >= config.stage_two_start or progress.since_best >= config.patience

    def _begin_stage_two(self) -> None:
        """The loss with the raised energy weight, at a constant lower rate; the best is looked for anew.

        As mace-torch does: the moving average goes on, and no other average over epochs is taken.
        """
        progress = self.progress
        progress.stage, progress.best_loss, progress.since_best = 2, float("inf"), 0
        progress.epoch = max(progress.epoch, self.config.stage_two_start)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.stage_two_lr

    # --- putting down and taking up ---

    def state_dict(self) -> dict:
        """Everything that the rest of the training depends on: tensors and plain data only."""
        return {
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else _plain(self.scheduler.state_dict()),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best_state,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was taken."""
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best_state = state["best"]

    def best_model(self) -> MACE:
        """A copy of the model with the best weights of the stage (those of now, before the first epoch is done)."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.averaged_state() if self.best_state is None else self.best_state)
        return model.requires_grad_(True)


def _make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig):
    schedulers = torch.optim.lr_scheduler
    if config.scheduler == "plateau":
        return schedulers.ReduceLROnPlateau(optimizer, factor=config.lr_factor, patience=config.lr_patience)
    if config.scheduler == "exponential":
        return schedulers.ExponentialLR(optimizer, gamma=config.lr_decay)
    return None


def _plain(state: dict) -> dict:
    """Numbers, text and lists of a scheduler's state."""
    kept = (bool, int, float, str, list, type(None))
    return {key: value for key, value in state.items() if isinstance(value, kept)}
