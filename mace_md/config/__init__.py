"""Every option of every command, once: flag = TOML key = help = default = unit = check. options.py does the rest.

One file a command.
"""

from mace_md.config.analyze import AnalyzeConfig
from mace_md.config.doctor import DoctorConfig
from mace_md.config.evaluate import EvaluateConfig
from mace_md.config.export import ExportConfig
from mace_md.config.label import LabelConfig
from mace_md.config.models import ModelsConfig
from mace_md.config.relax import RelaxConfig
from mace_md.config.run import RunConfig
from mace_md.config.settled import DEFAULT_MODEL
from mace_md.config.train import INHERIT, TrainConfig
from mace_md.options.reading import load_config
from mace_md.options.writing import options_table, template, to_toml

__all__ = [
    "DEFAULT_MODEL",
    "INHERIT",
    "AnalyzeConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "LabelConfig",
    "ModelsConfig",
    "RelaxConfig",
    "RunConfig",
    "TrainConfig",
    "load_config",
    "options_table",
    "template",
    "to_toml",
]
