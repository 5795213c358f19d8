"""Run folders from the log to the page: what is chosen, what is said, what is refused, and planted mistakes."""

import json
import logging

import mdtraj
import numpy as np
import pytest
from known_systems import WATER, waters

from mace_md import analysis, cli
from mace_md.analysis import reading
from mace_md.analysis.pipeline import Wishes, analyse
from mace_md.errors import InputError

FRAMES, STEP, SIDE, COUNT = 400, 0.05, 1.6, 27
HEADER = "step,time_ps,potential_kJ_mol,kinetic_kJ_mol,total_kJ_mol,conserved_kJ_mol,temperature_K,volume_nm3"
HEADER += ",density_g_mL"


EXPECTED = 2.0 * (COUNT - 1) / COUNT  # 1e-5 cm2/s; without the motion of the whole a part of each one's own is gone


def write_log(folder, rng, rows=FRAMES + 1):
    lines = [HEADER + ",box_a_nm,speed_ns_day"]
    for row in range(rows):
        potential, kinetic = -100 + rng.normal(), 50 + rng.normal()
        temperature = 300 + 5 * rng.normal()
        cells = (row * 50, row * STEP, potential, kinetic, potential + kinetic, "", temperature, SIDE**3, 0.5)
        lines.append(",".join(map(str, cells)) + f",{SIDE},1.0")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


def write_run(folder, seed=2, temperature=300.0, drift=0.0, wrapped=True):
    """27 waters that diffuse with D = 2e-3 nm2/ps (2e-5 cm2/s) in a box, as a run leaves them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    topology = waters(COUNT)
    grid = np.array(np.meshgrid(*[np.arange(3)] * 3)).reshape(3, -1).T * SIDE / 3
    way = np.cumsum(rng.normal(size=(FRAMES, COUNT, 3)) * np.sqrt(2 * 2e-3 * STEP), axis=0)
    way += drift * STEP * np.arange(FRAMES)[:, None, None] * np.array([1.0, 0, 0])
    start = grid + rng.uniform(0, 0.1, size=grid.shape)
    centres = start + way
    if wrapped:
        centres %= SIDE
    positions = (centres[:, :, None] + WATER).reshape(FRAMES, 3 * COUNT, 3)
    lengths, angles = np.full((FRAMES, 3), SIDE), np.full((FRAMES, 3), 90.0)
    times = STEP * (1 + np.arange(FRAMES))
    trajectory = mdtraj.Trajectory(positions, topology, times, lengths, angles)
    trajectory.save_xtc(str(folder / "trajectory.xtc"))
    mdtraj.Trajectory((start[:, None] + WATER).reshape(1, -1, 3), topology, None, lengths[:1], angles[:1]).save_pdb(
        str(folder / "topology.pdb")
    )
    write_log(folder, rng)
    (folder / "run.toml").write_text(
        f'ensemble = "nvt"\nthermostat = "bussi"\ntemperature = {temperature}\ntimestep = 1.0\nseed = {seed}\n'
        f"steps = {50 * FRAMES}\n"
    )
    (folder / "run.log").write_text("2026-01-01 00:00:00,0 warning: a bond broke <b>here</b>.\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "water")


@pytest.fixture(scope="module")
def found(run):
    return analyse(reading.open_source(run), Wishes(skip="0%"))


def quantities(found):
    return {quantity.key: quantity for result in found.results for quantity in result.quantities}


def test_what_fits_a_liquid_is_chosen(found):
    assert found.system.kind == "liquid"
    names = [result.name for result in found.results]
    assert {"energy", "temperature", "density", "rdf", "diffusion", "hbonds", "heat-capacity"} <= set(names)
    assert found.num_frames == FRAMES and abs(found.frame_step - STEP) < 1e-6


def test_diffusion_of_a_run_is_what_it_was_made_with(found):
    d = quantities(found)["diffusion_H2O"]
    low, high = d.interval
    assert low < EXPECTED < high and d.unit == "1e-5 cm²/s"
    assert high - low < 2.0


def test_wrapped_or_not_it_is_the_same(run, tmp_path, found):
    free = analyse(reading.open_source(write_run(tmp_path / "free", wrapped=False)), Wishes(("diffusion",), "0%"))
    first, second = (quantities(one)["diffusion_H2O"].value for one in (found, free))
    assert abs(first / second - 1) < 0.02  # XTC rounds to 0.001 nm


def test_a_drift_is_taken_off_and_told(tmp_path):
    found = analyse(reading.open_source(write_run(tmp_path / "drift", drift=0.5)), Wishes(("diffusion",), "0%"))
    low, high = quantities(found)["diffusion_H2O"].interval
    assert low < EXPECTED < high
    assert any("everything together moved by" in text for text in found.results[0].warnings)


def test_doubled_frames_are_told(run, tmp_path):
    folder = write_run(tmp_path / "doubled")
    trajectory = mdtraj.load(str(folder / "trajectory.xtc"), top=str(folder / "topology.pdb"))
    mdtraj.join([trajectory[:200], trajectory[150:]]).save_xtc(str(folder / "trajectory.xtc"))
    found = analyse(reading.open_source(folder), Wishes(skip="0%"))
    assert any("50 of 450 frames are in the trajectory twice" in text for text in found.warnings)
    assert "not evenly spaced" in found.missing["diffusion"]


def test_the_density_of_the_frames_is_that_of_the_log(run):
    """Here a log made for it: of the volume of the boxes and the masses."""
    trajectory = analysis.load(run)
    volume = float(np.linalg.det(trajectory.unitcell_vectors[0].astype(float)))
    source = reading.open_source(run)
    assert abs(volume - source.log["volume_nm3"][0]) < 1e-5
    assert abs(source.masses.sum() - COUNT * 18.015) < 0.01


def test_what_cannot_be_had_says_how(run):
    with pytest.raises(InputError, match="no velocities.*--trajectory-data velocities"):
        analyse(reading.open_source(run), Wishes(("vdos",)))
    with pytest.raises(InputError, match="--charges FILE.csv"):
        analyse(reading.open_source(run), Wishes(("ir",)))
    with pytest.raises(InputError, match="--ensemble npt"):
        analyse(reading.open_source(run), Wishes(("compressibility",)))
    with pytest.raises(InputError, match="no atom is 'name XX'"):
        analyse(reading.open_source(run), Wishes(("rdf",), rdf=("name O:name XX",)))


def test_a_run_that_is_going_on_is_read_to_its_last_whole_row_and_frame(tmp_path):
    folder = write_run(tmp_path / "going")
    with open(folder / "log.csv", "a") as file:
        file.write("20050,20.05,-100.0,5")
    whole = (folder / "trajectory.xtc").read_bytes()
    (folder / "trajectory.xtc").write_bytes(whole[:-100])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = analyse(reading.open_source(folder), Wishes(("energy", "rdf")))
    assert found.num_frames == FRAMES - 1
    assert len(found.system.source.log["step"]) == FRAMES + 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # nothing was changed


def test_dcd_frames_have_the_times_of_their_header(tmp_path):
    """mdtraj takes them as 1 ps apart; the writer of runs is the oracle."""
    from openmm import app

    from mace_md.md.files.trajectory import DCDTrajectory, Frame, TRRTrajectory

    pdb = write_run(tmp_path / "run") / "topology.pdb"
    topology = app.PDBFile(str(pdb)).topology
    rng = np.random.default_rng(1)
    dcd = DCDTrajectory(tmp_path / "run" / "trajectory.dcd", topology, 0.5, 40)
    trr = TRRTrajectory(tmp_path / "run" / "trajectory.trr", topology)
    frames = []
    for k in range(1, 6):
        x, v = rng.normal(size=(2, 3 * COUNT, 3))
        frames.append(Frame(40 * k, 0.02 * k, x, SIDE * np.eye(3), None, v, None))
        dcd.append(frames[-1])
        trr.append(frames[-1])
    expected = [frame.time for frame in frames]
    loaded = analysis.load(tmp_path / "run" / "trajectory.dcd")
    assert np.allclose(loaded.time, expected, atol=1e-6)
    times, velocities = analysis.velocities(tmp_path / "run")
    assert np.allclose(times, expected, atol=1e-6)
    assert np.abs(velocities - [frame.velocities for frame in frames]).max() < 1e-6
    assert np.abs(analysis.load(tmp_path / "run" / "trajectory.trr").xyz - loaded.xyz).max() < 1e-6


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def command(caplog):
    def call(*words):
        caplog.set_level(logging.INFO, logger="mace_md")
        return cli.main(["analyze", *map(str, words)])

    return call


def test_the_command_writes_its_files(run, tmp_path, command, capsys):
    output = tmp_path / "out"
    assert command(run, "--output", output, "--skip", "10%") == 0
    content = json.loads((output / "analysis.json").read_text())
    density = content["observables"]["energy"]["quantities"]["potential_energy"]
    assert density["low_95"] < -100 < density["high_95"] and density["n_eff"] > 100
    assert content["window"]["start_ps"] == pytest.approx(2.0)
    names = {path.name for path in output.iterdir()}
    assert {"rdf.csv", "rdf.svg", "rdf.png", "diffusion.csv", "msd.png", "report.html", "analysis.json"} <= names
    header, first = (output / "rdf.csv").read_text().splitlines()[:2]
    assert header.startswith("r_A,g_O-O,g_O-O_95,coordination_O-O") and len(first.split(",")) == len(header.split(","))
    assert command(run, "--output", output) == 1
    assert "--force" in capsys.readouterr().err
    assert command(run, "--output", output, "--force", "--observables", "energy", "--no-report") == 0


def test_the_page_stands_alone(run, tmp_path, command):
    """No address in it is one that a browser would fetch, its policy forbids it, and what people wrote is escaped."""
    import re

    assert command(run, "--output", tmp_path / "out") == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert len(text) < 3_000_000
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # 3Dmol.js names addresses that it does not fetch
    assert "http:" not in page and "https:" not in page.replace("https://doi.org", "")
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "default-src 'none'" in page
    assert "a bond broke &lt;b&gt;here&lt;/b&gt;" in page
    assert "var(--line1)" in page and "<title>" in page and 'lang="en"' in page
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    molecule = json.loads(re.search(r'<script id="molecule" type="application/json">(.*?)</script>', text).group(1))
    assert len(molecule["elements"]) == 3 * COUNT and len(molecule["bonds"]) == 2 * COUNT


def test_repetitions_are_averaged_and_others_compared(tmp_path, command, capsys):
    for name, seed, temperature in (("a", 1, 300), ("b", 2, 300), ("c", 3, 300), ("warm", 4, 330)):
        write_run(tmp_path / "set" / name, seed, temperature)
    few = ("--observables", "energy,temperature", "--no-report")
    three = [tmp_path / "set" / name for name in "abc"]
    assert command(*three, *few, "--output", tmp_path / "three") == 0
    content = json.loads((tmp_path / "three" / "comparison.json").read_text())
    assert len(content["groups"]) == 1 and len(content["groups"][0]["runs"]) == 3
    value = content["quantities"]["potential_energy"]["values"][0]
    parts = [
        json.loads((tmp_path / "three" / name / "analysis.json").read_text())["observables"]["energy"]["quantities"]
        for name in "abc"
    ]
    means = [part["potential_energy"]["value"] for part in parts]
    half = 4.302653 * np.std(means, ddof=1) / np.sqrt(3)  # Student's t of two degrees of freedom
    assert value["value"] == pytest.approx(np.mean(means)) and value["high_95"] - value["value"] == pytest.approx(half)
    assert command(tmp_path / "set", *few, "--output", tmp_path / "four") == 1
    assert "differ in temperature" in capsys.readouterr().err
    assert command(tmp_path / "set", *few[:2], "--output", tmp_path / "four", "--compare", "--force") == 0
    content = json.loads((tmp_path / "four" / "comparison.json").read_text())
    assert [one["name"] for one in content["groups"]] == ["300 K (3 runs)", "330 K"]
    change = content["quantities"]["potential_energy"]["values"][1]
    assert not change["significant"] and 0 < change["p_value"] <= 1
    assert "side by side" in (tmp_path / "four" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [(("nowhere",), "no such run folder"), (("{run}", "--compare"), "two runs at least"),
     (("{run}", "--observables", "rfd"), "rfd"), (("{run}", "--skip", "all"), "--skip all")],
)  # fmt: skip
def test_mistakes_have_one_line(run, tmp_path, command, capsys, words, message):
    code = command(*(word.replace("{run}", str(run)) for word in words), "--output", tmp_path / "out")
    assert code in (1, 2)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out" / "analysis.json").exists()


def test_any_trajectory_with_a_topology_is_taken(run, tmp_path, command):
    trajectory = mdtraj.load(str(run / "trajectory.xtc"), top=str(run / "topology.pdb"))
    trajectory.save_trr(str(tmp_path / "other.trr"))
    words = (tmp_path / "other.trr", "--topology", run / "topology.pdb", "--observables", "diffusion", "--skip", "0%")
    assert command(*words, "--output", tmp_path / "out", "--no-report") == 0
    d = json.loads((tmp_path / "out" / "analysis.json").read_text())["observables"]["diffusion"]["quantities"]
    assert d["diffusion_H2O"]["low_95"] < EXPECTED < d["diffusion_H2O"]["high_95"]
