"""Structures of functional groups that the monomers of SPICE lack, and of ions in contact, labelled by the teacher.

The monomers have no bond of N with N or O, no S=O, few phosphates and charged groups; some ligands have them. With too
few such structures the training elsewhere moves the student away from the teacher there. No held-out monomer or ligand
is among them.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from ase.data import covalent_radii
from frames import Engine, Frame, closest_contact
from sample import langevin
from short_range import IONS, Molecule, approach, draw_molecule

MOLECULES = """
NN CNN CN(C)N CNNC CC(=O)NN O=C(NN)c1ccccc1 NC(=O)NN NNc1ccccc1 CN(N)c1ccccc1 CC(=O)NNC(C)=O C=NN CC=NNC(C)=O
CC(C)=NNc1ccccc1 N=N N=NC N=NC(C)=O N=NC(=O)c1ccccc1 N=Nc1ccccc1 N=NC(=O)c1ccoc1 CN=NC c1ccc(cc1)N=Nc1ccccc1
O=C(NN)c1ccco1 NNC(=S)N O=C(NN)c1cc[nH]c1 [NH3+]N c1cn[nH]c1 Cn1cccn1 Cc1cc(C)[nH]n1 c1c[nH]nn1 Cn1cnnc1 c1nc[nH]n1
c1nnn[nH]1 c1nnco1 c1nncs1 Nc1nncs1 CS(N)(=O)=O NS(=O)(=O)c1ccccc1 CNS(C)(=O)=O CN(C)S(C)(=O)=O CS(=O)(=O)Nc1ccccc1
NS(=O)(=O)c1ccc(N)cc1 NS(N)(=O)=O NS(=O)(=O)c1nccs1 CC(=O)NS(C)(=O)=O CS(C)(=O)=O CS(=O)(=O)c1ccccc1 O=S1(=O)CCCC1
O=S1(=O)CCOCC1 CS(C)=O CS(=O)c1ccccc1 CS(=O)CC CS(=O)(=O)O CS(=O)(=O)[O-] OCCS(=O)(=O)[O-] NCCS(=O)(=O)O
[NH3+]CCS(=O)(=O)[O-] [O-]S(=O)(=O)c1ccccc1 COS(=O)(=O)[O-] COS(=O)(=O)OC CS CCSCCC SCCS CSc1ccccc1 Sc1ccccc1 CSSC
CCSSCC C1CCSSC1 OCCSSCCO CC(N)=S CSC(=O)C c1ccsc1 c1cscn1 OCC(O)CS C[S-] COP(=O)(O)O COP(=O)([O-])[O-]
CCOP(=O)([O-])OC CCOP(=O)(OCC)OC CP(=O)(O)O CP(=O)([O-])O CP(=O)(OC)OC OP(O)(O)=O OP(=O)(O)OCCO COP(=O)(O)OP(=O)(O)OC
COP(=O)([O-])OP(=O)([O-])OC OCC(O)COP(=O)(O)O CP(C)C CO[PH](=O)OC C[PH](=O)OC CCO[PH](=O)OCC O=P(O)(O)Oc1ccccc1
NP(=O)(O)O C[N+](=O)[O-] O=[N+]([O-])c1ccccc1 O=[N+]([O-])c1ccc(O)cc1 CC(C)[N+](=O)[O-] CC#N N#Cc1ccccc1 N#CCC#N
C[N+](C)(C)[O-] [O-][n+]1ccccc1 CC=NO CC(C)=NO ON=Cc1ccccc1 CC(=O)NO O=C(NO)c1ccccc1 CON CN(C)O CON=C(C)C NC(N)=N
NC(N)=[NH2+] CNC(N)=N CNC(N)=[NH2+] CN=C(N)N(C)C N=C(N)Nc1ccccc1 CC(N)=N CC(N)=[NH2+] NC(=N)c1ccccc1 NC(N)=O CNC(=O)NC
O=C1NCCN1 NC(=O)Nc1ccccc1 CNC(=O)NC(=O)C COC(N)=O COC(=O)NC CN(C)C(=O)OC O=C1CNC(=O)N1 NC(=O)NCC(=O)O CCc1ncc[nH]1
Cn1ccnc1 Cc1c[nH]cn1 c1c[nH]c[nH+]1 c1ccc2[nH]cnc2c1 c1ncc2[nH]cnc2n1 Nc1ncnc2[nH]cnc12 O=c1[nH]cnc2[nH]cnc12
Nc1ncc2nc[nH]c2n1 Cn1cnc2c1c(=O)n(C)c(=O)n2C Nc1cc[nH]c(=O)n1 Cn1ccc(=O)[nH]c1=O Nc1nc(N)ncn1 Nc1ncc[nH]c1=O
c1ccc2ncccc2c1 c1ccc2cnccc2c1 c1ccnc(c1)-c1ccccn1 c1cnc2ccccc2n1 c1ccc2c(c1)ccc1ccccc12 c1cnc2ncccc2c1 c1ccnnc1
c1cncnc1 O=C(O)c1ccccn1 O=C([O-])c1ccccn1 O=C([O-])c1ccccc1 O=C([O-])c1cccc(C(=O)[O-])c1 Oc1ccccc1O Oc1ccccc1C(N)=O
CC(=O)[O-] OC1CCCCO1 OCC1OCCC(O)C1O OC1COCC1O C1CNCCN1 OCCN1CCNCC1 C[NH+]1CCNCC1 C[NH3+] C[N+](C)(C)C [NH3+]CC(=O)[O-]
NCCO CCCCC CC(C)CC CC(F)(F)F CC(F)F FC(F)(F)c1ccccc1 Fc1ccccc1 Fc1ccccc1F ClC(Cl)Cl CCCl Clc1ccccc1 Clc1ccc(Cl)cc1
BrCBr CCBr Brc1ccccc1 Brc1ccncc1 CI CCI Ic1ccccc1 Ic1ccncc1 ICCO FC(F)(F)C(=O)O OCC(F)(F)F CC(F)C(=O)O
FC(F)(F)S(N)(=O)=O FCCl FC(F)(Cl)Br Clc1ncccn1 NC(=O)c1ccccc1Cl ClC=CCl
""".split()
CONFORMERS = 5  # of every molecule, two frames of each
CONTACT = (0.9, 1.3)  # pairs of ions, sums of the covalent radii
LARGEST = 25.0  # eV/A; of ions in contact


def build(smiles: str, seed: int) -> list[Molecule]:
    """Conformers (ETKDG, then MMFF94) of a molecule."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    AllChem.EmbedMultipleConfs(molecule, CONFORMERS, randomSeed=seed)
    if AllChem.MMFFHasAllMoleculeParams(molecule):
        AllChem.MMFFOptimizeMoleculeConfs(molecule)
    return [
        (numbers, conformer.GetPositions(), Chem.GetFormalCharge(molecule)) for conformer in molecule.GetConformers()
    ]


def functional_groups(frames: list[Frame], teacher: Engine, rng: np.random.Generator) -> list[Frame]:
    """Two frames of the teacher's dynamics at 300 to 600 K of every conformer, each second one with a neighbour."""
    found = []
    for smiles in MOLECULES:
        for index, molecule in enumerate(build(smiles, int(rng.integers(2**31)))):
            if index % 2:
                molecule = approach(molecule, draw_molecule(frames, rng), 1.5, rng)
            numbers, start, charge = molecule
            for positions in langevin(teacher, numbers, start, rng.choice([300, 450, 600]), 160, 80, rng):
                energy, forces = teacher(numbers, positions)
                if closest_contact(numbers, positions) > 0.75 and np.abs(forces).max() < 15.0:  # eV/A, as in SPICE
                    found.append(Frame("broad", smiles, numbers, positions, charge, energy, forces))
    return found


def ions_in_contact(teacher: Engine, left_out: dict[frozenset[int], float], rng: np.random.Generator) -> list[Frame]:
    """Pairs of ions around contact; of a pair of the test only what is closer than its first distance (A) there."""
    frames = []
    for i, j in combinations_with_replacement(sorted(IONS), 2):
        contact = covalent_radii[i] + covalent_radii[j]
        for r in contact * rng.uniform(*CONTACT, 24):
            if r > left_out.get(frozenset((i, j)), np.inf) - 0.02:
                continue
            numbers, positions = np.array([i, j]), np.array([[0, 0, 0], [0, 0, r]])
            energy, forces = teacher(numbers, positions)
            if np.abs(forces).max() < LARGEST:
                frames.append(Frame("contact", f"{i}-{j}", numbers, positions, IONS[i] + IONS[j], energy, forces))
    return frames
