"""Doors for other programs: ASE, openmm-ml."""
