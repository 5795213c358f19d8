"""`mace-md relax` as a user meets it: what it writes can be read again and is a minimum; nothing is overwritten."""

import ase.io
import numpy as np
import pytest
from ase import units

import mace_md
from mace_md import cli

MODEL = "mace-md-small"


def relaxed(tmp_path, *words, name="out.extxyz") -> tuple[int, object]:
    output = tmp_path / name
    code = cli.main(["relax", *map(str, words), "--output", str(output)])
    return code, output


def test_a_molecule_ends_at_a_minimum(repository, tmp_path, capsys):
    steps = tmp_path / "steps.extxyz"
    code, output = relaxed(tmp_path, repository / "systems/ethanol/ethanol.pdb", "--trajectory", steps)
    said = capsys.readouterr().out
    assert code == 0 and "relax: converged after" in said and "licence: MIT" in said
    atoms = ase.io.read(output)
    written = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = mace_md.ase_calculator(MODEL, dtype="float64", kernels="reference")
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.0101
    assert atoms.get_potential_energy() == pytest.approx(written[0], abs=1e-6)
    assert np.abs(atoms.get_forces() - written[1]).max() < 1e-6
    energies = [frame.get_potential_energy() for frame in ase.io.read(steps, ":")]
    assert len(energies) > 4 and energies[-1] == pytest.approx(written[0], abs=1e-9) and energies[0] > energies[-1]


def test_a_crystal_is_relaxed_with_its_cell_under_pressure(repository, tmp_path, capsys):
    words = ["--cell", "full", "--pressure", "1 GPa", "--max-force", "0.03", "--max-stress", "0.05 GPa"]
    code, output = relaxed(tmp_path, repository / "systems/urea/urea.pdb", *words, name="urea.cif")
    assert code == 0 and "volume" in capsys.readouterr().out
    atoms = ase.io.read(output)
    assert len(atoms) == len(ase.io.read(repository / "systems/urea/urea.pdb"))
    atoms.calc = mace_md.ase_calculator(MODEL, dtype="float64")
    # CIF rounds fractional coordinates to 1e-5; a stress is then within 0.02 GPa.
    assert np.abs(atoms.get_stress() / units.GPa + [1, 1, 1, 0, 0, 0]).max() < 0.07


def test_a_pdb_file_keeps_the_names(repository, tmp_path):
    code, output = relaxed(tmp_path, repository / "systems/ethanol/ethanol.pdb", "--max-steps", 1, name="e.pdb")
    start = (repository / "systems/ethanol/ethanol.pdb").read_text().splitlines()
    names = [line[12:20] for line in start if line.startswith(("ATOM", "HETATM"))]
    assert code == 0
    assert [line[12:20] for line in output.read_text().splitlines() if line.startswith(("ATOM", "HETATM"))] == names


def test_nothing_is_overwritten_and_mistakes_are_said(repository, tmp_path, capsys):
    ethanol = repository / "systems/ethanol/ethanol.pdb"
    (tmp_path / "out.extxyz").write_text("mine")
    assert relaxed(tmp_path, ethanol)[0] == 1
    assert (tmp_path / "out.extxyz").read_text() == "mine" and "--force" in capsys.readouterr().err
    for words, said in [
        ((ethanol, "--cell", "full"), "not periodic"),
        ((ethanol, "--pressure", "1"), "--pressure needs cell = volume or full"),
        ((ethanol, "--freeze", "name XX"), "chooses no atom"),
        ((), "structure is missing"),
    ]:
        code, output = relaxed(tmp_path, *words, name="new.extxyz")
        assert code in (1, 2) and said in capsys.readouterr().err and not output.exists()
    code, output = relaxed(tmp_path, ethanol, name="new.cif")
    assert code == 1 and "is for crystals" in capsys.readouterr().err
    assert cli.main(["relax", str(ethanol), "--output", str(tmp_path / "x.xtc")]) == 2


def test_a_bond_that_breaks_stops_it(repository, tmp_path, capsys, monkeypatch):
    """A calculator that only repels: every bond is stated by the SMILES, and nothing is written."""
    from ase.calculators.calculator import Calculator, all_changes

    class Repulsion(Calculator):
        implemented_properties = ["energy", "forces"]

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            x = self.atoms.positions - self.atoms.positions.mean(axis=0)
            self.results = {"energy": -0.5 * float((x**2).sum()), "forces": x}

    from mace_md.commands import relax

    monkeypatch.setattr(relax, "ase_calculator", lambda *args, **more: Repulsion())
    code, output = relaxed(tmp_path, "--smiles", "CO")
    assert code == 3 and not output.exists()
    assert "broke" in capsys.readouterr().err
