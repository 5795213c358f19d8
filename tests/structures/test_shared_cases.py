"""The small inputs that are kept beside the project: each gives what is right for it. Skipped where they are absent."""

from pathlib import Path

import numpy as np
import pytest
from test_elements import symbols

from mace_md.md.dynamics.masses import repartition_hydrogen
from mace_md.md.files.reporters import write_topology
from mace_md.structures.formats.isotopes import DEUTERIUM
from mace_md.structures.preflight import check_hydrogens
from mace_md.structures.structure import read_structure

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
WATERS = ["O", "H", "H"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("charmm_sod.pdb", WATERS * 25 + ["Na", "Cl"]), ("charmm_cal.gro", WATERS * 24 + ["Ca", "Cl", "Cl"]),
        ("trimethylamine_prodrg.pdb", ["C", "N", "C", "C", *["H"] * 9]), ("bom_cryst.pdb", WATERS * 27),
        ("prec6.gro", WATERS * 27), ("cryst_free.pdb", WATERS * 27), ("water.mol2", WATERS), ("numbers.xyz", WATERS),
        ("labels.xyz", WATERS), ("d2o.xyz", WATERS), ("vmd_end2.pdb", WATERS), ("microhet.pdb", WATERS),
        ("water_altloc.cif", WATERS), ("d2o.pdb", WATERS), ("tma_acpype.gro", ["C", "N", "C", "C", *["H"] * 9]),
    ],
)  # fmt: skip
def test_elements(name, wanted):
    structure = read_structure(CASES / name)
    assert symbols(structure) == wanted
    assert check_hydrogens(structure) == []


@pytest.mark.parametrize("name", ["bom_cryst.pdb", "cryst_free.pdb", "prec6.gro", "charmm_sod.pdb", "charmm_cal.gro"])
def test_boxes(name):
    assert np.allclose(read_structure(CASES / name).box, 0.93 * np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "mass"),
    [
        ("trimethylamine_prodrg.pdb", 59.112), ("methanol_d3.sdf", 35.061), ("d2o.pdb", 15.999 + 2 * DEUTERIUM),
        ("d2o.xyz", 15.999 + 2 * DEUTERIUM),
    ],
)  # fmt: skip
def test_masses(name, mass):
    assert read_structure(CASES / name).masses.sum() == pytest.approx(mass, abs=2e-3)  # tables differ by as much


def test_a_topology_without_atomic_numbers():
    structure = read_structure(CASES / "tma_acpype.top", coordinates_file=CASES / "tma_acpype.gro")
    assert symbols(structure) == ["C", "N", "C", "C", *["H"] * 9]
    assert any("NAA -> N (1)" in note for note in structure.notes)


def test_frames():
    assert any("2 frames, separated by END" in note for note in read_structure(CASES / "vmd_end2.pdb").notes)
    assert read_structure(f"{CASES / 'vmd_end2.pdb'}@1").positions[0, 0] == pytest.approx(0.555, abs=1e-9)
    assert read_structure(f"{CASES / 'movie_blank.xyz'}@-1").positions[0, 0] == pytest.approx(30.0, abs=0.1)


def test_alternates():
    water = read_structure(CASES / "water_altloc.cif")
    assert water.positions[0, 0] == pytest.approx(0.195, abs=1e-9)  # 0.7 against 0.3
    for name in ("water_altloc.cif", "microhet.pdb"):
        assert any("alternate locations were left out" in note for note in read_structure(CASES / name).notes)


@pytest.mark.parametrize("name", ["Charge.xyz", "charges_col.xyz"])
def test_charges_are_treated_alike(name):
    assert read_structure(CASES / name).charge == 1


def test_long_residue_names_go_to_mmcif(tmp_path):
    structure = read_structure(CASES / "ccd5.cif")
    path = write_topology(tmp_path, structure)
    assert path.name == "topology.cif"
    again = next(read_structure(path).topology.residues())
    assert (again.name, again.id, again.chain.id) == ("A1LU6", "12001", "AA")


def test_atoms_marked_f_are_held():
    structure = read_structure(CASES / "sel.vasp")
    assert np.flatnonzero(structure.fixed.all(axis=1)).tolist() == list(range(8))  # the oxygens
    assert not structure.fixed[8:].any()


def test_polymer_is_endless_and_its_hydrogens_have_carbons():
    structure = read_structure(CASES / "polyethylene.xyz")
    molecules, numbers = structure.molecules, np.array(structure.atomic_numbers)
    assert molecules.in_network().all()
    heavy = repartition_hydrogen(structure.topology, 3.0, molecules.bonds)
    assert heavy.sum() == pytest.approx(structure.masses.sum(), abs=1e-9)
    assert (heavy[numbers == 1] == 3.0).all()
