"""The forces of a run as OpenMM forces: the model, dispersion, restraints."""
