"""Options of `mace-md run` beyond a plain simulation: stages, ramps, restraints, frozen atoms, beads, files."""

import csv
import json

import mdtraj
import numpy as np
import pytest
from water_box import water_pdb

import mace_md.commands.run
from mace_md.cli import main
from mace_md.config import RunConfig
from mace_md.errors import UsageError
from mace_md.options.declare import options_of
from mace_md.options.reading import load_config
from mace_md.stopping import StopRequest

HEAD = """
structure = "water.pdb"
model = "{model}"
seed = 3
timestep = 0.5
threads = 1
platform = "Reference"
bond_break = "ignore"
closest_contact = 0
check = "skip"
minimize = false
dtype = "float64"
report_interval = 5
trajectory_interval = 10
checkpoint_interval = 10
trajectory_format = ["dcd", "xtc", "trr", "extxyz"]
trajectory_data = ["velocities", "forces"]
"""
HOLD = '[[restraint]]\nkind = "position"\natoms = ["element O"]\nk = 5000\n'
STAGES = """
[[stage]]
name = "heat"
temperature = "50 -> 300"
steps = 25
trajectory = true
[[stage]]
name = "settle"
minimize = true
thermostat = "bussi"
timestep = 1.0
steps = 20
restraints = "1 -> 0"
[[stage]]
name = "produce"
ensemble = "nve"
steps = 25
restraints = 0
"""
FREE = STAGES.replace('restraints = "1 -> 0"\n', "").replace("restraints = 0\n", "")


@pytest.fixture
def run(tmp_path, tiny_model, capsys, monkeypatch):
    """Run `mace-md run` with a file of options; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    water_pdb(tmp_path / "water.pdb", per_side=2)

    def call(text, *words, output="out"):
        keys = {line.partition(" = ")[0] for line in text.partition("[[")[0].splitlines()}
        head = [line for line in HEAD.format(model=tiny_model).splitlines() if line.partition(" = ")[0] not in keys]
        (tmp_path / "run.toml").write_text("\n".join(head) + "\n" + text)
        capsys.readouterr()
        code = main(["run", "--config", str(tmp_path / "run.toml"), "--output", output, *map(str, words)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def stop_after(monkeypatch):
    """Makes the next runs stop at a number of looks at the clock, as by a signal; None lets them run."""

    def after(count):
        class Counting(StopRequest):
            def reason(self):
                nonlocal count
                count = None if count is None else count - 1
                return "stopped by a test" if count is not None and count < 0 else None

        monkeypatch.setattr(mace_md.commands.run, "StopRequest", Counting)

    return after


def rows(folder, name="log.csv"):
    """The table as dictionaries, without the speed, which no two runs share."""
    with open(folder / name) as file:
        return [{key: value for key, value in row.items() if key != "speed_ns_day"} for row in csv.DictReader(file)]


def same_results(one, two):
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in two.iterdir()}
    for name in names:
        if name.startswith("log"):
            assert rows(one, name) == rows(two, name), name
        if name.startswith("trajectory"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name


# ------------------------------------------------------------------------------------------------ stages


def test_stages_follow_one_another(run, tmp_path):
    code, out, _ = run(HOLD + STAGES)
    assert code == 0
    heat, settle, produce = (rows(tmp_path / "out", name) for name in ("log-heat.csv", "log-settle.csv", "log.csv"))
    assert [float(row["target_temperature_K"]) for row in heat] == [50, 50, 150, 150, 250, 250]  # steps 0, 5, ... 25
    assert [float(row["restraint_scale"]) for row in settle] == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert float(settle[1]["restraint_kJ_mol"]) > 0 == float(produce[1]["restraint_kJ_mol"])
    assert [row["time_ps"] for row in settle][-1] == "0.020000"
    assert not (tmp_path / "out" / "trajectory-settle.dcd").exists()
    totals = [float(row["total_kJ_mol"]) for row in produce]
    assert np.ptp(totals) < 0.05 * 24  # constant energy; the model is random, so the bound is loose
    # what the stage before ended with is what the next begins with
    assert float(produce[0]["kinetic_kJ_mol"]) == pytest.approx(float(settle[-1]["kinetic_kJ_mol"]), rel=0.05)
    assert float(produce[0]["potential_kJ_mol"]) == pytest.approx(float(settle[-1]["potential_kJ_mol"]), abs=1e-5)
    for said in ("heat: 25 steps of 0.5 fs, nvt, 50 -> 300 K, restraints 1", "settle: 20 steps of 1 fs", "minimise:"):
        assert said in out


@pytest.mark.parametrize("looks", [2, 6, 8, 14])
def test_stages_continue_bit_for_bit(run, stop_after, tmp_path, looks):
    """Stopped in each of the stages in turn, at their borders, and twice: the same files to the last byte."""
    text = HOLD + STAGES.replace("minimize = true\n", "")
    assert run(text, output="whole")[0] == 0
    stop_after(looks)
    code, _, err = run(text, output="parts")
    assert code == 4, err
    stop_after(3)
    assert run(text, "--restart", output="parts")[0] in (0, 4)
    stop_after(None)
    code, out, err = run(text, "--restart", output="parts")
    assert code == 0, err
    same_results(tmp_path / "whole", tmp_path / "parts")


def test_last_stage_can_be_continued_to_more_steps(run, tmp_path):
    text = FREE.rpartition("steps = 25")[0]
    assert run(text, "--steps", 15)[0] == 0
    code, out, _ = run(text, "--steps", 30, "--restart")
    assert code == 0
    assert run(text, "--steps", 30, output="whole")[0] == 0
    same_results(tmp_path / "whole", tmp_path / "out")


def test_another_restraint_is_another_run(run):
    assert run("steps = 5\n" + HOLD)[0] == 0
    code, _, err = run("steps = 5\n" + HOLD.replace("5000", "6000"), "--restart")
    assert code == 1
    assert "[[restraint]] 1: k was 5000.0, is 6000.0" in err
    code, _, err = run("steps = 5\n", "--restart")
    assert code == 1
    assert "[[restraint]] 1: k was 5000.0, is None" in err


def test_files_of_finished_stages_are_watched_over(run, tmp_path):
    text = FREE.rpartition("steps = 25")[0]
    assert run(text, "--steps", 5)[0] == 0
    assert run(text, "--steps", 10, "--restart")[0] == 0
    path = tmp_path / "out" / "trajectory-heat.dcd"
    path.write_bytes(path.read_bytes()[:-1])
    code, _, err = run(text, "--steps", 15, "--restart")
    assert code == 1 and "trajectory-heat.dcd: has" in err


MISTAKES = {
    "unknown key": ('[[stage]]\nname = "a"\ntemprature = 5\n', "[[stage]]: table 1 (a): unknown key 'temprature'. Did"),
    "unit": ('[[stage]]\nname = "a"\nsteps = 1\ntemperature = "5 bar -> 7"\n', "'5 bar' has the unit 'bar'"),
    "no length": ('[[stage]]\nname = "a"\n[[stage]]\nname = "b"\n', "a: steps or time is missing"),
    "same name": ('[[stage]]\nname = "a"\nsteps = 1\n[[stage]]\nname = "a"\n', "each name may appear once"),
    "file name": ('[[stage]]\nname = "a/b"\n', "becomes part of file names"),
    "pressure": ('[[stage]]\nname = "a"\nsteps = 1\npressure = 1\n', "stage]] a: --pressure needs ensemble"),
    "no restraint": ('[[stage]]\nname = "a"\nsteps = 1\nrestraints = 0\n', "there is no [[restraint]] table"),
    "length twice": ('steps = 4\n[[stage]]\nname = "a"\nsteps = 1\n', "the length of stage a is in its table and in"),
    "equilibration": ('equilibration_steps = 4\n[[stage]]\nname = "a"\n', "--equilibration-steps is for a run without"),
    "selection": ('freeze = "name XX"\n', "--freeze: 'name XX' chooses no atom"),
    "all frozen": ('freeze = "all"\n', "all 24 atoms are held"),
    "frozen npt": ('freeze = "index 0"\nensemble = "npt"\n', "a barostat scales the box with all that is in it"),
    "forces in dcd": ('trajectory_format = ["dcd"]\n', "dcd files hold positions only"),
    "beads": ("beads = 4\nthermostat = 'bussi'\n", "brings its own thermostat"),
    "bead files": ("bead_trajectories = true\n", "--bead-trajectories needs --beads"),
    "a late stage": (
        'barostat_scaling = "atoms"\nensemble = "npt"\n[[stage]]\nname = "a"\nsteps = 1\n'
        '[[stage]]\nname = "b"\nbeads = 2\n',
        "scales molecules only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_has_a_message_and_no_folder(run, tmp_path, mistake):
    text, message = MISTAKES[mistake]
    code, _, err = run(text)
    assert code in (1, 2), err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_another_stage_is_another_run(run):
    assert run(FREE)[0] == 0
    code, _, err = run(FREE.replace("50 -> 300", "60 -> 300"), "--restart")
    assert code == 1
    assert "stage heat: temperature was 50 -> 300, is 60 -> 300" in err


# ------------------------------------------------------------------------------------------------ one part


def test_ramps_of_temperature_and_pressure_without_stages(run, tmp_path):
    text = 'ensemble = "npt"\ntemperature_from = 100\npressure_from = 1\npressure = 501\nsteps = 50\n'
    code, out, err = run(text)
    assert code == 0, err
    found = rows(tmp_path / "out")
    assert [float(row["target_temperature_K"]) for row in found][::2] == [100, 140, 180, 220, 260, 300]
    assert [float(row["target_pressure_bar"]) for row in found][::2] == [1, 101, 201, 301, 401, 501]
    assert "100 -> 300 K, 1 -> 501 bar" in out
    code, _, err = run(text.replace("steps = 50", "steps = 80"), "--restart")
    assert code == 1
    assert "steps (of a ramp) was 50, is 80" in err


def test_frozen_atoms_stay_and_are_not_counted(run, tmp_path):
    code, out, err = run('freeze = "resid 0 to 1"\nsteps = 20\n')
    assert code == 0, err
    assert "6 of 24 atoms do not move" in out
    assert "54 degrees of freedom" in out
    start = mdtraj.load(tmp_path / "water.pdb").xyz[0]
    moved = np.linalg.norm(
        mdtraj.load(tmp_path / "out/trajectory.xtc", top=tmp_path / "water.pdb").xyz[-1] - start, axis=1
    )
    assert moved[:6].max() < 1e-3  # the precision of xtc
    assert moved[6:].min() > 1e-4


def test_heavy_hydrogen_keeps_the_mass_and_warns_no_more(run, tmp_path):
    code, out, _ = run("hydrogen_mass = 3\ntimestep = 2\nsteps = 10\n")
    assert code == 0
    assert "masses: hydrogen 3 Da" in out
    assert "is long for hydrogen" not in out
    code, out, _ = run("steps = 10\ntimestep = 2\n", output="light")
    assert "is long for hydrogen" in out
    heavy, light = (float(rows(tmp_path / name)[0]["density_g_mL"]) for name in ("out", "light"))
    assert heavy == light


def test_chosen_atoms_with_their_topology(run, tmp_path):
    code, out, _ = run('trajectory_atoms = "element O"\nsteps = 20\n')
    assert code == 0
    folder = tmp_path / "out"
    full = mdtraj.load(folder / "system.pdb")
    assert full.n_atoms == 24
    for kind in ("dcd", "xtc", "trr"):
        trajectory = mdtraj.load(folder / f"trajectory.{kind}", top=folder / "topology.pdb")
        assert (trajectory.n_frames, trajectory.n_atoms, trajectory.n_residues) == (2, 8, 8)
    assert run("steps = 20\n", output="all")[0] == 0
    everything = mdtraj.load(tmp_path / "all/trajectory.dcd", top=folder / "system.pdb")
    trajectory = mdtraj.load(folder / "trajectory.dcd", top=folder / "topology.pdb")
    assert np.array_equal(everything.xyz[:, full.topology.select("element O")], trajectory.xyz)


def test_velocities_and_forces_are_what_openmm_has(run, tmp_path):
    """TRR by mdtraj's reader and extended XYZ by ASE's: forces are the model's, by our own ASE calculator."""
    import ase.io

    import mace_md as package

    assert run("steps = 20\n" + HOLD)[0] == 0
    with mdtraj.formats.TRRTrajectoryFile(str(tmp_path / "out/trajectory.trr")) as file:
        xyz, time, step, box, _, velocities, forces = file._read(2, None, get_velocities=True, get_forces=True)
    frames = ase.io.read(tmp_path / "out/trajectory.extxyz", ":")
    assert step.tolist() == [10, 20] and time == pytest.approx([0.005, 0.01])
    model = package.ase_calculator(
        package.load_model(json.loads((tmp_path / "out/run.json").read_text())["model"]["path"])
    )
    for k, atoms in enumerate(frames):
        assert xyz[k] == pytest.approx(atoms.positions / 10, abs=1e-5)
        assert velocities[k] == pytest.approx(atoms.arrays["velocities"] / 10, abs=1e-5)
        written = atoms.get_forces()
        assert forces[k] == pytest.approx(written * 964.8533, abs=2e-2)  # 1e-5 of the largest; float32
        atoms.calc = model
        # positions have eight digits after the point; the restraint, not part of the model, pulls with 5000 kJ/mol/nm^2
        assert written == pytest.approx(atoms.get_forces(), abs=1e-4)
    assert np.linalg.norm(velocities[0]) > 1.0


# ------------------------------------------------------------------------------------------------ dispersion


def test_dispersion_is_added_logged_and_continued(run, stop_after, tmp_path):
    pytest.importorskip("dftd3")
    text = (
        'steps = 20\ndispersion = "d3bj"\ndispersion_functional = "pbe"\ndispersion_missing = "yes"\nensemble = "nve"\n'
    )
    code, out, err = run(text, output="whole")
    assert code == 0, err
    assert "D3(BJ) of pbe is added, pairs within 20 A" in out
    stop_after(2)
    assert run(text, output="parts")[0] == 4
    stop_after(None)
    assert run(text, "--restart", output="parts")[0] == 0
    same_results(tmp_path / "whole", tmp_path / "parts")
    found = rows(tmp_path / "whole")
    assert all(float(row["dispersion_kJ_mol"]) < -10 for row in found)
    totals = [float(row["total_kJ_mol"]) for row in found]
    assert np.ptp(totals) < 0.1  # kJ/mol: the force is the slope of what is added


def test_dispersion_that_might_be_counted_twice_is_refused(run, tmp_path):
    code, _, err = run('steps = 20\ndispersion = "d3bj"\n')
    assert code == 1
    assert "--dispersion-missing yes" in err
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ several runs


def test_seeds_and_temperatures_have_a_folder_each_and_a_summary(run, tmp_path):
    """Each equals the single run with its seed and temperature; a restart adds steps to all."""
    series = ("--seeds", "1,2", "--temperatures", "280,300")
    code, out, err = run("steps = 10\n", *series)
    assert code == 0, err
    names = ["280K-seed1", "280K-seed2", "300K-seed1", "300K-seed2"]
    with open(tmp_path / "out" / "summary.csv") as file:
        summary = list(csv.DictReader(file))
    assert [row["run"] for row in summary] == names
    assert {row["state"] for row in summary} == {"done"}
    first = rows(tmp_path / "out" / names[0])
    kept = [float(row["temperature_K"]) for row in first]
    assert float(summary[0]["temperature_K"]) == pytest.approx(np.mean(kept), rel=1e-5)
    assert run("steps = 10\nseed = 2\ntemperature = 280\n", output="single")[0] == 0
    same_results(tmp_path / "single", tmp_path / "out" / names[1])
    code, _, err = run("steps = 10\n", *series)
    assert code == 1 and "is not empty" in err
    assert run("steps = 15\n", *series, "--restart")[0] == 0
    assert {rows(tmp_path / "out" / name)[-1]["step"] for name in names} == {"15"}


def test_a_series_that_is_stopped_goes_on(run, stop_after, tmp_path):
    stop_after(3)
    code, _, err = run("steps = 20\n", "--seeds", "1,2")
    assert code == 4 and "run 2 of 2, seed2" in err or "run 1 of 2, seed1" in err
    stop_after(None)
    assert run("steps = 20\n", "--seeds", "1,2", "--restart")[0] == 0
    assert {rows(tmp_path / "out" / name)[-1]["step"] for name in ("seed1", "seed2")} == {"20"}


def test_a_run_stopped_by_a_rule_does_not_stop_the_others(run, tmp_path):
    code, out, _ = run("steps = 10\nmax_temperature = 400\ntemperatures = [2000, 300]\n")
    assert code == 3
    with open(tmp_path / "out" / "summary.csv") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["stopped by a safety rule", "done"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--seeds", "1,1"], "seed1 is there twice"),
        (["--seeds", "1,2", "--seed", "3"], "give --seed or --seeds, not both"),
        (["--temperatures", "1,2", "--temperature", "3"], "give --temperature or --temperatures, not both"),
    ],
)
def test_series_that_make_no_sense_are_refused(run, tmp_path, words, message):
    text = "steps = 1\n"
    code, _, err = run(text, *words)
    assert code in (1, 2) and message in err
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ path integrals

RINGS = 'beads = 4\nsteps = 20\nbead_trajectories = true\ntemperature = 500\nensemble = "{}"\n'


@pytest.mark.parametrize("ensemble", ["nvt", "nve", "npt"])
def test_path_integral_runs_and_continues(run, stop_after, tmp_path, ensemble):
    text = RINGS.format(ensemble)
    assert run(text, output="whole")[0] == 0
    stop_after(2)
    assert run(text, output="parts")[0] == 4
    stop_after(None)
    code, out, _ = run(text, "--restart", output="parts")
    assert code == 0
    if ensemble != "npt":  # OpenMM's barostat draws new random numbers
        same_results(tmp_path / "whole", tmp_path / "parts")
    folder = tmp_path / "whole"
    beads = [mdtraj.load(folder / f"trajectory-bead{k:02d}.dcd", top=folder / "topology.pdb") for k in range(1, 5)]
    centroid = mdtraj.load(folder / "trajectory.dcd", top=folder / "topology.pdb")
    mean = np.mean([bead.xyz for bead in beads], axis=0)
    assert mean == pytest.approx(centroid.xyz, abs=1e-5)  # nm; files hold float32
    last = rows(folder)[-1]
    spread = np.mean([((bead.xyz[-1] - mean[-1]) ** 2).sum(axis=1) for bead in beads], axis=0)
    hydrogens = centroid.topology.select("element H")
    assert float(last["bead_radius_H_A"]) == pytest.approx(10 * np.sqrt(spread[hydrogens].mean()), rel=1e-3)
    assert float(last["bead_radius_O_A"]) > 0


def test_path_integral_after_a_classical_stage(run, tmp_path):
    """A classical stage hands its structure to the rings, and frozen atoms have no rings."""
    stages = '[[stage]]\nname = "classical"\nsteps = 10\n[[stage]]\nname = "quantum"\nbeads = 3\nsteps = 10\n'
    code, out, err = run('freeze = "resid 0"\n' + stages)
    assert code == 0, err
    start = mdtraj.load(tmp_path / "water.pdb").xyz[0]
    end = mdtraj.load(tmp_path / "out/trajectory.dcd", top=tmp_path / "water.pdb").xyz[-1]
    assert np.abs(end[:3] - start[:3]).max() < 1e-5
    assert "bead_radius_H_A" in rows(tmp_path / "out")[0]


NUMBERS = [entry.name for entry, kind, _ in options_of(RunConfig) if kind in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["1e300", "99999999999999999999"])
def test_no_number_is_too_large_to_be_refused(name, value, tmp_path):
    """What OpenMM, NumPy or the memory have no room for ends with the option's name, not with a traceback."""
    entry, _, many = next(found for found in options_of(RunConfig) if found[0].name == name)
    text = ",".join([value] * min(entry.metadata.get("count", (1,)))) if many else value
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: must be at most"):
        load_config(RunConfig, [str(tmp_path / "a.pdb"), f"--{name.replace('_', '-')}", text])


def test_a_supercell_of_too_many_atoms_is_refused(run):
    code, _, err = run("steps = 1\n", "--supercell", "1000,1000,1000")
    assert code == 1 and "atoms would become" in err
