"""Makes the files of this folder: `python systems/inputs/make.py`. Needs ParmEd for the AMBER and GROMACS files.

Nothing is downloaded. Peptide, aspirin, caffeine and acetic acid come from RDKit (sequence or SMILES, ETKDGv3, MMFF94);
carbon dioxide is the cubic crystal (Pa-3, a = 5.624 A, x(O) = 0.1185: Simon, Peters, Acta Cryst. B 36, 2750, 1980);
urea as in ../make.py. The waters are OpenMM's equilibrated TIP3P and TIP4P-Ew boxes.
"""

from pathlib import Path

import ase.io
import ase.spacegroup
import numpy as np
from ase import Atoms
from openmm import LangevinMiddleIntegrator, Vec3, app, unit
from rdkit import Chem
from rdkit.Chem import AllChem

HERE = Path(__file__).parent
AMBER = ("amber14-all.xml", "amber14/tip3p.xml")
UREA = """\
data_urea
_chemical_name_common  'urea, 12 K'
_chemical_formula_sum  'C H4 N2 O'
_cell_length_a  5.565(1)
_cell_length_b  5.565(1)
_cell_length_c  4.684(1)
_cell_angle_alpha  90
_cell_angle_beta  90
_cell_angle_gamma  90
_space_group_name_H-M_alt  'P -4 21 m'
_space_group_IT_number  113
loop_
  _space_group_symop_operation_xyz
  'x, y, z'
  '-x, -y, z'
  'y, -x, -z'
  '-y, x, -z'
  '1/2-x, 1/2+y, -z'
  '1/2+x, 1/2-y, -z'
  '1/2-y, 1/2-x, z'
  '1/2+y, 1/2+x, z'
loop_
  _atom_site_label
  _atom_site_type_symbol
  _atom_site_fract_x
  _atom_site_fract_y
  _atom_site_fract_z
  _atom_site_occupancy
  C1 C 0.0000 0.5000 0.3260 1
  O1 O 0.0000 0.5000 0.5953 1
  N1 N 0.1459 0.6459 0.1766 1
  H1 H 0.2575 0.7575 0.2827 1
  H2 H 0.1441 0.6441 -0.0380 1
"""


def embedded(molecule: Chem.Mol) -> Chem.Mol:
    molecule = Chem.AddHs(molecule, addResidueInfo=True)
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
    return molecule


def atoms_of(molecule: Chem.Mol) -> Atoms:
    return Atoms([atom.GetSymbol() for atom in molecule.GetAtoms()], molecule.GetConformer().GetPositions())


def enkephalin() -> None:
    """Tyr-Gly-Gly-Phe-Leu as a crystallographer has it: no hydrogens, the sequence in SEQRES."""
    peptide = Chem.RemoveHs(embedded(Chem.MolFromSequence("YGGFL")))
    lines = Chem.MolToPDBBlock(peptide, flavor=4).splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "TER"))]
    text = "\n".join(["SEQRES   1 A    5  TYR GLY GLY PHE LEU", *atoms, "TER", "END"])
    (HERE / "enkephalin.pdb").write_text(text + "\n")


def aspirin() -> None:
    molecule = embedded(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"))
    molecule.SetProp("_Name", "aspirin")
    with Chem.SDWriter(str(HERE / "aspirin.sdf")) as writer:
        writer.write(molecule)


def caffeine() -> None:
    atoms_of(embedded(Chem.MolFromSmiles("CN1C=NC2=C1C(=O)N(C(=O)N2C)C"))).write(HERE / "caffeine.xyz")


def acetic_acid() -> None:
    """Two molecules face to face, with charge and spin multiplicity in the comment line."""
    one = atoms_of(embedded(Chem.MolFromSmiles("CC(=O)O")))
    c, o, oh, h = one.positions[[1, 2, 3, 7]]
    axis = (o + h) / 2 - c
    axis /= np.linalg.norm(axis)
    normal = np.cross(o - c, oh - c)
    other = one.copy()
    other.rotate(180, normal, center=c)
    other.translate(axis * 3.85)
    dimer = one + other
    dimer.info = {"charge": 0, "spin": 1}
    ase.io.write(HERE / "acetic_acid.extxyz", dimer)


def carbon_dioxide() -> None:
    crystal = ase.spacegroup.crystal(
        ["C", "O"], [(0, 0, 0), (0.1185, 0.1185, 0.1185)], spacegroup=205, cellpar=[5.624] * 3 + [90] * 3
    )
    ase.io.write(HERE / "carbon_dioxide.vasp", crystal, format="vasp", direct=True, sort=True)


def urea() -> None:
    (HERE / "urea.cif").write_text(UREA)


def alanine_dipeptide() -> None:
    """The molecule of ../alanine_dipeptide as prmtop and rst7, and as mmCIF."""
    import parmed

    pdb = app.PDBFile(str(HERE.parent / "alanine_dipeptide" / "alanine_dipeptide.pdb"))
    system = app.ForceField(*AMBER).createSystem(pdb.topology)
    amber = parmed.openmm.load_topology(pdb.topology, system, pdb.positions)
    amber.save(str(HERE / "alanine_dipeptide.prmtop"), overwrite=True)
    amber.save(str(HERE / "alanine_dipeptide.rst7"), overwrite=True)
    with open(HERE / "alanine_dipeptide.cif", "w") as file:
        app.PDBxFile.writeFile(pdb.topology, pdb.positions, file, keepIds=True)


def relaxed(modeller: app.Modeller, field: app.ForceField):
    """System and positions of a small box of water after 5 ps with its classical model."""
    system = field.createSystem(modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.7, rigidWater=False)
    integrator = LangevinMiddleIntegrator(300, 2.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(modeller.topology, system, integrator)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy()
    simulation.step(10_000)
    return system, simulation.context.getState(positions=True, enforcePeriodicBox=True).getPositions()


def salt_water() -> None:
    """One sodium and one chloride ion in water, as GROMACS top and gro."""
    import parmed

    field = app.ForceField(*AMBER)
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, boxSize=Vec3(1.6, 1.6, 1.6) * unit.nanometer, ionicStrength=0.4 * unit.molar)
    system, positions = relaxed(modeller, field)
    gromacs = parmed.openmm.load_topology(modeller.topology, system, positions)
    top = HERE / "salt_water.top"
    gromacs.save(str(top), overwrite=True)
    lines = top.read_text().split("\n")  # ParmEd's heading names the machine, the user and the day
    first = next(i for i, line in enumerate(lines) if line and not line.startswith(";"))
    heading = "; Water with sodium chloride, TIP3P, a standalone topology; made by systems/inputs/make.py with ParmEd"
    top.write_text("\n".join([heading, "", *lines[first:]]))
    gromacs.save(str(HERE / "salt_water.gro"), overwrite=True)


def tip4p() -> None:
    """Four-site water: the fourth site, MW, is no atom."""
    field = app.ForceField("tip4pew.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(field, model="tip4pew", boxSize=Vec3(1.5, 1.5, 1.5) * unit.nanometer)
    modeller.addExtraParticles(field)
    _, relaxed_positions = relaxed(modeller, field)
    positions = np.array(relaxed_positions.value_in_unit(unit.nanometer)).reshape(-1, 4, 3)
    lines = ["four-site water", str(4 * len(positions))]
    for number, sites in enumerate(positions, 1):
        for k, (name, (x, y, z)) in enumerate(zip(("OW", "HW1", "HW2", "MW"), sites, strict=True)):
            lines.append(f"{number:5d}{'SOL':<5s}{name:>5s}{4 * number - 3 + k:5d}{x:8.3f}{y:8.3f}{z:8.3f}")
    lines.append("".join(f"{1.5:10.5f}" for _ in range(3)))
    (HERE / "tip4p.gro").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    for maker in (
        enkephalin, aspirin, caffeine, acetic_acid, carbon_dioxide, urea, alanine_dipeptide, salt_water, tip4p
    ):  # fmt: skip
        maker()
        print(maker.__name__)
