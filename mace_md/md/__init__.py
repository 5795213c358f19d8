"""From a structure and a force to a trajectory: everything that knows OpenMM."""
