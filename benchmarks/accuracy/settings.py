"""How the models of the accuracy tables are trained: as in the paper, and in a size for one CPU core.

Paper: arXiv 2206.07697, appendix A.5.1 (256 channels, l_max 3, two layers, 8 Bessel functions, p = 5, r_max 5 A, loss
weights 1 and 1000, AMSGrad with lr 0.01, batch 5, plateau patience 50 and factor 0.8, EMA 0.99, weight decay 5e-7;
float64 for 3BPA and AcAc, float32 for rMD17; E0s are the mean energy per atom). It does not give the number of epochs:
1500, the last 300 of them with a raised energy weight, are those of the 3BPA example in mace-torch's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """One way to train, in the terms of both programs."""

    num_channels: int = 256
    max_L: int = 2
    max_ell: int = 3
    correlation: int = 3
    r_max: float = 5.0  # A
    batch_size: int = 5
    epochs: int = 1500
    stage_two_start: int | None = 1200  # epochs before the energy weight is raised; None: never
    energy_weight: float = 1.0
    forces_weight: float = 1000.0
    lr: float = 0.01
    lr_decay: float | None = None  # factor an epoch; None: plateau, patience 50, factor 0.8
    ema: float = 0.99
    weight_decay: float = 5e-7
    dtype: str = "float64"


PAPER = Settings()
# In the few epochs that a CPU has time for, the learning rate has to fall all the way, to about 1/40, and energies
# need a larger weight to converge at all.
CPU_SIZED = Settings(
    num_channels=16,
    max_L=0,
    max_ell=2,
    batch_size=10,
    epochs=25,
    stage_two_start=None,
    energy_weight=100.0,
    lr_decay=0.86,
)


# For a learning curve the steps must not be what limits the error: the paper's batch and weights, five times the steps.
CPU_SIZED_CURVE = replace(CPU_SIZED, batch_size=5, energy_weight=1.0)
CURVE_STEPS = 4000


def settings_for(dataset: str, n_train: int, cpu_sized: bool, correlation: int = 3, curve: bool = False) -> Settings:
    """The settings for a data set (a name of datasets.py) and a number of training frames; of a learning `curve`."""
    dtype = "float32" if dataset.startswith("rmd17-") else "float64"
    if not cpu_sized:
        # As many steps for the small training sets as a third of those of the large ones.
        epochs = 1500 if n_train >= 450 else round(500 * 950 / n_train)
        return replace(PAPER, dtype=dtype, correlation=correlation, epochs=epochs, stage_two_start=epochs * 4 // 5)
    small = CPU_SIZED_CURVE if curve else CPU_SIZED
    steps = CURVE_STEPS if curve else 800 if dataset.startswith("rmd17-") else max(500, 2.5 * n_train)
    epochs = round(steps / -(-n_train // small.batch_size))
    decay = round(0.023 ** (1 / epochs), 5 if curve else 3)
    return replace(small, dtype=dtype, correlation=correlation, epochs=epochs, lr_decay=decay)
