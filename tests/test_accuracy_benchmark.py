"""The accuracy benchmark does not rot: its options exist, its data are divided as it says, its page is its results."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def benchmark():
    """Its modules, each as what it defines."""
    names = ("run", "report", "datasets", "settings")
    return {name: vars(importlib.import_module(f"benchmarks.accuracy.{name}")) for name in names}


@pytest.mark.parametrize("cpu_sized", [True, False])
def test_its_options_are_those_of_mace_md_train(benchmark, cpu_sized):
    from mace_md.config import TrainConfig, load_config

    run = benchmark["run"]
    for name, n_train in (("acac", 450), ("rmd17-ethanol", 950), ("rmd17-ethanol", 50)):
        task = run["Task"](name, n_train, 3, cpu_sized)
        dataset = run["Dataset"](name, Path("train.xyz"), Path("valid.xyz"), {})
        config = load_config(TrainConfig, ["train.xyz", *run["options_here"](task, dataset)])
        assert config.num_channels == (16 if cpu_sized else 256) and config.seed == 3
        assert config.stage_two is not cpu_sized and config.dtype == ("float64" if name == "acac" else "float32")
        assert (config.energy_weight, config.forces_weight) == (100.0 if cpu_sized else 1.0, 1000.0)


def test_the_page_is_of_the_results(benchmark):
    """docs/accuracy.md is what report.py makes of the committed results: python -m benchmarks.accuracy.report."""
    results, throughput = (
        json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        for name in ("accuracy", "train_throughput")
    )
    expected = benchmark["report"]["document"](list(results.values()), throughput)
    assert (ROOT / "docs" / "accuracy.md").read_text() == expected


def test_slopes_of_a_power_law(benchmark):
    points = {n: 7.0 * n**-0.62 for n in (50, 100, 950)}
    slope, intercept = benchmark["report"]["slope_of"](points)
    assert (slope, 10**intercept) == (pytest.approx(-0.62), pytest.approx(7.0))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data of rMD17")
def test_training_and_validation_frames_are_apart_and_nested(benchmark, tmp_path):
    from mace_md.training.data import read_configurations

    prepare = benchmark["datasets"]["prepare"]
    small, large = (prepare("rmd17-ethanol", SHARED, tmp_path, n) for n in (20, 50))

    def energies(path):
        return [c.energy for c in read_configurations(path)]

    assert energies(small.train) == energies(large.train)[:20] and energies(small.valid) == energies(large.valid)
    assert not set(energies(large.train)) & set(energies(large.valid)) and len(energies(large.valid)) == 50
    source = read_configurations(SHARED / "rmd17" / "rmd17_ethanol_test_01.npz")
    written = read_configurations(small.tests["test"])
    assert len(written) == 1000
    for a, b in list(zip(source, written, strict=True))[::200]:
        assert a.energy == pytest.approx(b.energy, abs=1e-4)  # eV; ASE has the kcal of CODATA 2014, 8e-9 away
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data of AcAc")
def test_molecules_are_those_that_ase_reads(benchmark):
    """Exactly: with forces from a compressed file, and without forces from a plain one."""
    from ase.io import read

    for name, frames in (("test_MD_600K.xyz.gz", 20), ("test_dihedral.xyz", 45)):
        path = SHARED / "acac" / name
        found = benchmark["datasets"]["_molecules"](path)[:frames]
        for atoms, expected in zip(found, read(path, index=f":{frames}"), strict=True):
            assert (atoms.numbers == expected.numbers).all() and (atoms.positions == expected.positions).all()
            assert atoms.info["REF_energy"] == expected.calc.results["energy"] and not atoms.pbc.any()
            forces = expected.calc.results.get("forces")
            assert ("REF_forces" in atoms.arrays) == (forces is not None)
            assert forces is None or (atoms.arrays["REF_forces"] == forces).all()
