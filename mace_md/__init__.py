"""MACE force fields inside OpenMM.

Importing this package imports nothing heavy: each name below is fetched from its module on first use.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "load_model": "mace_md.model.reading.checkpoint",
    "save_model": "mace_md.model.reading.checkpoint",
    "make_force": "mace_md.md.forces.model",
    "make_system": "mace_md.md.system",
    "ase_calculator": "mace_md.hosts.ase",
    "export_potential": "mace_md.model.artifact",
    "InputError": "mace_md.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mace_md' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
