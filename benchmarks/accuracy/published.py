"""Published errors, transcribed from arXiv 2206.07697 (tables of 3BPA, AcAc and rMD17). Pairs are (energy, forces).

Energies in meV per molecule, forces in meV/A. AcAc and 3BPA: root-mean-square errors, trained on 450 + 50 frames of
300 K; rMD17: mean absolute errors, trained on 950 + 50 frames, or on 50.
"""

ACAC = {
    "BOTNet": {"300K": (0.89, 6.3), "600K": (6.2, 29.8)},
    "NequIP": {"300K": (0.81, 5.90), "600K": (6.04, 27.8)},
    "MACE": {"300K": (0.9, 5.1), "600K": (4.6, 22.4)},
}
BPA = {
    "Allegro": {"300K": (3.84, 12.98), "600K": (12.07, 29.17)},
    "NequIP": {"300K": (3.3, 10.8), "600K": (11.2, 26.4)},
    "MACE L=0": {"300K": (4.5, 14.6), "600K": (13.7, 33.3)},
    "MACE L=2": {"300K": (3.0, 8.8), "600K": (9.7, 21.8)},
}
RMD17 = {  # 950 + 50
    "NequIP": {
        "aspirin": (2.3, 8.2), "azobenzene": (0.7, 2.9), "benzene": (0.04, 0.3), "ethanol": (0.4, 2.8),
        "malonaldehyde": (0.8, 5.1), "naphthalene": (0.9, 1.3), "paracetamol": (1.4, 5.9), "salicylic": (0.7, 4.0),
        "toluene": (0.3, 1.6), "uracil": (0.4, 3.1),
    },
    "MACE": {
        "aspirin": (2.2, 6.6), "azobenzene": (1.2, 3.0), "benzene": (0.4, 0.3), "ethanol": (0.4, 2.1),
        "malonaldehyde": (0.8, 4.1), "naphthalene": (0.5, 1.6), "paracetamol": (1.3, 4.8), "salicylic": (0.9, 3.1),
        "toluene": (0.5, 1.5), "uracil": (0.5, 2.1),
    },
}  # fmt: skip
RMD17_50 = {
    "NequIP": {
        "aspirin": (19.5, 52.0), "azobenzene": (6.0, 20.0), "benzene": (0.6, 2.9), "ethanol": (8.7, 40.2),
        "malonaldehyde": (12.7, 52.5), "naphthalene": (2.1, 10.0), "paracetamol": (14.3, 39.7),
        "salicylic": (8.0, 35.0), "toluene": (3.3, 15.1), "uracil": (7.3, 40.1),
    },
    "MACE": {
        "aspirin": (17.0, 43.9), "azobenzene": (5.4, 17.7), "benzene": (0.7, 2.7), "ethanol": (6.7, 32.6),
        "malonaldehyde": (10.0, 43.3), "naphthalene": (2.1, 9.2), "paracetamol": (9.7, 31.5), "salicylic": (6.5, 28.4),
        "toluene": (3.1, 12.1), "uracil": (4.4, 25.9),
    },
}  # fmt: skip
