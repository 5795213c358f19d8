"""From a structure and a force to a trajectory, in OpenMM: nm, ps, kJ/mol."""
