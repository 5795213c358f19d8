"""The kinetic temperature."""

from mace_md.units import BOLTZMANN_KJ_MOL_K


def temperature_of(kinetic_energy: float, num_dof: int) -> float:
    """Kinetic temperature (K) of `kinetic_energy` (kJ/mol)."""
    return 2 * kinetic_energy / (num_dof * BOLTZMANN_KJ_MOL_K) if num_dof else 0.0
