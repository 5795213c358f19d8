"""`mace-md evaluate`: its numbers are those of a plain loop; bad data stop with the file, the frame and the remedy."""

import json
import re

import ase.io
import numpy as np
import pytest

import mace_md
from mace_md import cli
from tests.small_model import cluster


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tiny_model):
    """Two files of clusters whose labels are the tiny model's plus known errors; and those errors, eV and eV/A."""
    folder, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    calculator = mace_md.ase_calculator(tiny_model, kernels="reference")
    errors = {}
    for name, sizes in (("small", (4, 5, 6)), ("large", (10, 11))):
        frames, errors[name] = [], []
        for seed, n_atoms in enumerate(sizes):
            numbers, positions = cluster(n_atoms, seed=seed)
            atoms = ase.Atoms(numbers, positions)
            atoms.calc = calculator
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            error = rng.normal(scale=0.02), rng.normal(scale=0.1, size=(n_atoms, 3))
            atoms.calc = None
            atoms.info |= {"REF_energy": energy - error[0], "config_type": f"type{seed % 2}"}
            atoms.arrays["REF_forces"] = forces - error[1]
            frames.append(atoms)
            errors[name].append((*error, np.array(numbers)))
        ase.io.write(folder / f"{name}.xyz", frames)
    return folder, errors


def evaluate(model, *words) -> int:
    return cli.main(["evaluate", str(model), *map(str, words), "--check-data", "warn", "--kernels", "reference"])


def test_the_errors_are_those_that_were_put_in(labelled, tiny_model, tmp_path, capsys):
    folder, errors = labelled
    output = tmp_path / "out"
    assert evaluate(tiny_model, folder / "small.xyz", folder / "large.xyz", "--output", output) == 0
    text = capsys.readouterr().out
    written = json.loads((output / "errors.json").read_text())
    everything = [error for name in ("small", "large") for error in errors[name]]
    for name, put_in in (("small", errors["small"]), ("large", errors["large"]), (None, everything)):
        found = (written["data"][name] if name else written["all"])["errors"]
        energy = np.array([error for error, _, _ in put_in])
        per_atom = np.array([error / len(numbers) for error, _, numbers in put_in])
        forces = np.concatenate([error for _, error, _ in put_in])
        # labels are written with eight decimals; eV to meV
        assert found["energy"]["mae"] == pytest.approx(1000 * np.abs(energy).mean(), abs=1e-4)
        assert found["energy_per_atom"]["rmse"] == pytest.approx(1000 * np.sqrt((per_atom**2).mean()), abs=1e-4)
        assert found["forces"]["mae"] == pytest.approx(1000 * np.abs(forces).mean(), abs=1e-4)
        assert found["forces"]["rmse"] == pytest.approx(1000 * np.sqrt((forces**2).mean()), abs=1e-4)
    of_oxygen = np.concatenate([error[numbers == 8] for _, error, numbers in everything])
    assert written["all"]["forces_by_element"]["O"]["rmse"] == pytest.approx(
        1000 * np.sqrt((of_oxygen**2).mean()), abs=1e-4
    )
    assert set(written["all"]["by_config_type"]) == {"type0", "type1"}
    plots = {f"parity-{name}.{suffix}" for name in ("small", "large") for suffix in ("png", "svg")}
    assert {path.name for path in output.iterdir()} == {"errors.json", *plots}
    assert written["options"]["head"] is None and "torch" in written["versions"]

    rows = [line for line in text.splitlines() if re.match(r"(small|large|all) ", line)]
    shown = f"{written['data']['small']['errors']['forces']['rmse']:.2f}"
    assert len(rows) == 3 and shown in rows[0] and len({len(row) for row in rows}) == 1  # columns are aligned


def test_nothing_is_replaced_unless_asked(labelled, tiny_model, tmp_path, capsys):
    folder, _ = labelled
    words = [folder / "small.xyz", "--no-plots", "--output", tmp_path]
    assert evaluate(tiny_model, *words) == 0
    assert evaluate(tiny_model, *words) == 1
    assert "--force" in capsys.readouterr().err
    assert evaluate(tiny_model, *words, "--force") == 0


def test_energies_alone_are_compared_and_isolated_atoms_listed(tiny_model, tmp_path, capsys):
    numbers, positions = cluster(5)
    atoms = ase.Atoms(numbers, positions, info={"REF_energy": -1.0})
    lone = ase.Atoms("O", info={"REF_energy": -3.0, "config_type": "IsolatedAtom"})
    ase.io.write(tmp_path / "it.xyz", [atoms, lone])
    assert evaluate(tiny_model, tmp_path / "it.xyz", "--output", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "no forces in it" in text and "isolated O: model" in text and "label -3.0000 eV" in text
    written = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert written["all"]["configurations"] == 1 and "forces" not in written["all"]["errors"]


def _spoilt(name: str, atoms: ase.Atoms) -> ase.Atoms:
    if name == "no forces":
        del atoms.arrays["REF_forces"]
    elif name == "nan":
        atoms.arrays["REF_forces"][2, 1] = np.nan
    elif name == "element":
        atoms.numbers[0] = 79
    else:
        atoms.info = {"energie": 1.0}
        atoms.arrays["kraft"] = atoms.arrays.pop("REF_forces")
    return atoms


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("no forces", [], r"small\.xyz, frame 1 .*no forces.*--missing-labels"),
        ("nan", [], r"small\.xyz, frame 1 .*atom 2.*not a finite number"),
        ("element", [], r"small\.xyz, frame 1 .*does not know Au"),
        ("keys", ["--energy-key", "energi"], r"no frame has energy under the key 'energi'.*energie"),
        ("keys", [], r"no energies and no forces in it.*--energy-key"),
        ("missing", [], "no such file"),
    ],
)
def test_bad_data_stop_with_file_frame_and_remedy(name, words, message, labelled, tiny_model, tmp_path, capsys):
    path = tmp_path / "small.xyz"
    if name != "missing":
        frames = ase.io.read(labelled[0] / "small.xyz", ":")
        bad = frames if name == "keys" else frames[1:2]
        for atoms in bad:
            _spoilt(name, atoms)
        ase.io.write(path, frames)
    assert evaluate(tiny_model, path, "--output", tmp_path / "out", *words) == 1
    err = capsys.readouterr().err
    assert re.search(message, err) and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_constant_between_two_levels_of_theory_is_pointed_out(labelled, tiny_model, tmp_path, capsys):
    frames = ase.io.read(labelled[0] / "small.xyz", ":")
    for atoms in frames:
        atoms.info["REF_energy"] -= 0.5 * len(atoms)
    ase.io.write(tmp_path / "it.xyz", frames)
    assert evaluate(tiny_model, tmp_path / "it.xyz", "--no-plots", "--output", tmp_path) == 0
    assert re.search(r"energies: \+(49|50)\d\.\d meV/atom of the error is a constant", capsys.readouterr().out)


def test_stresses_of_slabs_and_frames_without_a_volume(tiny_model, tmp_path, capsys):
    """Labels of the calculator: the same volume, so no error; what has no volume is left out, and the JSON is one."""
    numbers, positions = cluster(5)
    frames = []
    for pbc in (True, (True, True, False), False):
        atoms = ase.Atoms(numbers, positions, cell=[7.0, 7.5, 30.0], pbc=pbc)
        atoms.calc = mace_md.ase_calculator(tiny_model, kernels="reference")
        frames.append(atoms.copy())
        frames[-1].info |= {"REF_energy": atoms.get_potential_energy(), "REF_stress": atoms.get_stress()}
        frames[-1].arrays["REF_forces"] = atoms.get_forces()
    ase.io.write(tmp_path / "slabs.xyz", frames)
    assert evaluate(tiny_model, tmp_path / "slabs.xyz", "--output", tmp_path / "out", "--no-plots") == 0
    assert "the stress of 1 frames is left out" in capsys.readouterr().out
    text = (tmp_path / "out" / "errors.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    stress = written["data"]["slabs"]["errors"]["stress"]
    # ASE writes numbers of info in full; 18 components
    assert stress["count"] == 18 and stress["largest"] < 1e-6


def test_a_near_key_is_named(labelled, tiny_model, tmp_path, capsys):
    folder, _ = labelled
    text = (folder / "small.xyz").read_text().replace("REF_forces", "force").replace("REF_energy", "dft_energy")
    (tmp_path / "other.xyz").write_text(text)
    assert evaluate(tiny_model, tmp_path / "other.xyz", "--output", tmp_path / "out") == 1
    assert "--energy-key dft_energy" in capsys.readouterr().err


def test_the_constant_is_taken_off_the_plot():
    from mace_md.training.comparison import Comparison
    from mace_md.training.parity import _panels

    label = np.array([-10.0, -11.0, -12.0])
    comparison = Comparison(
        np.full(3, 2), np.array([1, 8] * 3), np.array(["a"] * 3), (("x", 0),) * 3, (label, label + 0.8),
        (np.zeros((6, 3)), np.zeros((6, 3))), (np.full((3, 3, 3), np.nan),) * 2,
    )  # fmt: skip
    energy, forces = _panels(comparison)
    np.testing.assert_allclose(energy.predicted, energy.label, atol=1e-9)
    assert "+400 meV/atom" in energy.note and list(forces.groups) == ["H", "O"]
