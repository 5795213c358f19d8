"""A model as a run has it: loaded, with what the log says of it."""

from dataclasses import dataclass
from pathlib import Path

import torch


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
