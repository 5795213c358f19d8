"""From runs to numbers with intervals: statistics and observables, arrays in and arrays out, without torch or OpenMM.

Importing this package imports nothing heavy: each name below is fetched from its module on first use. Lengths are
in nm, times in ps, masses in Da, energies in kJ/mol, temperatures in K.
"""

import importlib

_HOME = {
    "statistics": "mean_of equilibration inefficiency together difference Mean TooShort",
    "reading": "load velocities open_source read_log",
    "geometry": "unwrap make_whole molecules_of",
    "distribution": "rdf PairCounter",
    "diffusion": "einstein green_kubo mean_squared_displacement finite_size_correction without_drift",
    "spectra": "vdos infrared raman peaks leapfrog_corrected",
    "dipoles": "dielectric_constant dipoles_of_charges read_charges read_dipoles",
    "structure": "rmsd radius_of_gyration fluctuations",
    "torsions": "dihedrals backbone_torsions bond_torsions",
    "thermodynamics": "heat_capacity compressibility thermal_expansion",
    "pipeline": "analyse Wishes Analysis",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = sorted(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module 'mace_md.analysis' has no attribute '{name}'")
    return getattr(importlib.import_module(f"mace_md.analysis.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
