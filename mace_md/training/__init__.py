"""Training of MACE models: data, statistics, loss, the optimisation."""
