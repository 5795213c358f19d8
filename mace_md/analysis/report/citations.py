"""What an analysis stands on, as BibTeX."""

ENTRIES = {
    "mace": """@inproceedings{batatia2022mace,
  title = {{MACE}: Higher Order Equivariant Message Passing Neural Networks for Fast and Accurate Force Fields},
  author = {Batatia, Ilyes and Kovacs, David Peter and Simm, Gregor N. C. and Ortner, Christoph and Csanyi, Gabor},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35}, pages = {11423--11436}, year = {2022}
}""",
    "openmm": """@article{eastman2024openmm,
  title = {{OpenMM} 8: Molecular Dynamics Simulation with Machine Learning Potentials},
  author = {Eastman, Peter and Galvelis, Raimondas and Pel{\\'a}ez, Ra{\\'u}l P. and others},
  journal = {J. Phys. Chem. B}, volume = {128}, pages = {109--116}, year = {2024},
  doi = {10.1021/acs.jpcb.3c06662}
}""",
    "equilibration": """@article{chodera2016equilibration,
  title = {A Simple Method for Automated Equilibration Detection in Molecular Simulations},
  author = {Chodera, John D.},
  journal = {J. Chem. Theory Comput.}, volume = {12}, pages = {1799--1805}, year = {2016},
  doi = {10.1021/acs.jctc.5b00784}
}""",
    "mdtraj": """@article{mcgibbon2015mdtraj,
  title = {{MDTraj}: A Modern Open Library for the Analysis of Molecular Dynamics Trajectories},
  author = {McGibbon, Robert T. and Beauchamp, Kyle A. and Harrigan, Matthew P. and others},
  journal = {Biophys. J.}, volume = {109}, pages = {1528--1532}, year = {2015},
  doi = {10.1016/j.bpj.2015.08.015}
}""",
    "3dmol": """@article{rego2015threedmol,
  title = {{3Dmol.js}: molecular visualization with {WebGL}},
  author = {Rego, Nicholas and Koes, David},
  journal = {Bioinformatics}, volume = {31}, pages = {1322--1324}, year = {2015},
  doi = {10.1093/bioinformatics/btu829}
}""",
    "allen": """@book{allen2017computer,
  title = {Computer Simulation of Liquids},
  author = {Allen, Michael P. and Tildesley, Dominic J.},
  edition = {2}, publisher = {Oxford University Press}, year = {2017}
}""",
    "yeh": """@article{yeh2004system,
  title = {System-Size Dependence of Diffusion Coefficients and Viscosities from Molecular Dynamics Simulations with
    Periodic Boundary Conditions},
  author = {Yeh, In-Chul and Hummer, Gerhard},
  journal = {J. Phys. Chem. B}, volume = {108}, pages = {15873--15879}, year = {2004},
  doi = {10.1021/jp0477147}
}""",
    "unwrap": """@article{vonbulow2020systematic,
  title = {Systematic errors in diffusion coefficients from long-time molecular dynamics simulations at constant
    pressure},
  author = {von B{\\"u}low, S{\\"o}ren and Bullerjahn, Jakob T{\\'o}mas and Hummer, Gerhard},
  journal = {J. Chem. Phys.}, volume = {153}, pages = {021101}, year = {2020},
  doi = {10.1063/5.0008316}
}""",
    "luzar": """@article{luzar1996hydrogen,
  title = {Hydrogen-bond kinetics in liquid water},
  author = {Luzar, Alenka and Chandler, David},
  journal = {Nature}, volume = {379}, pages = {55--57}, year = {1996},
  doi = {10.1038/379055a0}
}""",
    "kabsch": """@article{kabsch1976solution,
  title = {A solution for the best rotation to relate two sets of vectors},
  author = {Kabsch, Wolfgang},
  journal = {Acta Cryst. A}, volume = {32}, pages = {922--923}, year = {1976},
  doi = {10.1107/S0567739476001873}
}""",
    "welch": """@article{welch1967use,
  title = {The use of fast {Fourier} transform for the estimation of power spectra},
  author = {Welch, Peter D.},
  journal = {IEEE Trans. Audio Electroacoust.}, volume = {15}, pages = {70--73}, year = {1967},
  doi = {10.1109/TAU.1967.1161901}
}""",
    "ramirez": """@article{ramirez2004quantum,
  title = {Quantum corrections to classical time-correlation functions: Hydrogen bonding and anharmonic floppy modes},
  author = {Ram{\\'i}rez, Rafael and L{\\'o}pez-Ciudad, Telesforo and Kumar P, Padma and Marx, Dominik},
  journal = {J. Chem. Phys.}, volume = {121}, pages = {3973--3983}, year = {2004},
  doi = {10.1063/1.1774986}
}""",
    "neumann": """@article{neumann1983dipole,
  title = {Dipole moment fluctuation formulas in computer simulations of polar systems},
  author = {Neumann, Martin},
  journal = {Mol. Phys.}, volume = {50}, pages = {841--858}, year = {1983},
  doi = {10.1080/00268978300102721}
}""",
}
ALWAYS = ("mace", "openmm", "equilibration", "3dmol")


def bibtex(keys: list[str]) -> str:
    """The entries, each once, in the order they are used; those of all analyses first."""
    return "\n\n".join(ENTRIES[key] for key in dict.fromkeys([*ALWAYS, *keys]) if key in ENTRIES) + "\n"
