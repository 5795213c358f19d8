"""Trajectories open in other programs with the right numbers, and survive a full disk."""

import subprocess
import sys
from types import SimpleNamespace

import ase.io
import mdtraj
import numpy as np
import pytest
from mdtraj.formats import XTCTrajectoryFile
from water_box import water_pdb

from mace_md.md.files import reporters
from mace_md.md.files.readout import Readout
from mace_md.md.files.reporters import LogTable, Progress, Row, write_topology
from mace_md.md.files.trajectory import Frame, open_trajectory
from mace_md.structures.structure import read_structure

TRICLINIC = np.array([[1.0, 0, 0], [0.3, 0.9, 0], [-0.2, 0.25, 1.1]])


def frames(structure, count=4, box=TRICLINIC):
    rng = np.random.default_rng(0)
    return [
        Frame(10 * k, 0.005 * k, structure.positions + rng.normal(0, 0.01, structure.positions.shape), box, -12.5 * k)
        for k in range(1, count + 1)
    ]


def write(kind, path, structure, some):
    trajectory = open_trajectory(kind, path, structure.topology, 0.5, 10)
    for frame in some:
        trajectory.append(frame)
    trajectory.flush()
    return trajectory


@pytest.mark.parametrize("kind", ["dcd", "xtc"])
@pytest.mark.parametrize("per_side", [1, 2], ids=["3 atoms", "24 atoms"])  # XTC does not compress up to 9 atoms
@pytest.mark.parametrize("periodic", [True, False])
def test_mdtraj_reads_what_was_written(tmp_path, kind, per_side, periodic):
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=per_side, periodic=periodic))
    written = frames(structure, box=TRICLINIC if periodic else None)
    trajectory = write(kind, tmp_path / f"t.{kind}", structure, written)
    assert trajectory.size == (tmp_path / f"t.{kind}").stat().st_size
    read = mdtraj.load(str(tmp_path / f"t.{kind}"), top=str(write_topology(tmp_path, structure)))
    assert read.n_frames == 4
    tolerance = 1e-3 if kind == "xtc" else 1e-5  # nm; XTC keeps three digits
    assert np.allclose(read.xyz, [frame.positions for frame in written], atol=tolerance)
    if periodic:
        assert np.allclose(read.unitcell_vectors[0], TRICLINIC, atol=1e-4)
    else:
        assert read.unitcell_vectors is None or not np.any(read.unitcell_vectors)


def test_xtc_has_time_and_step(tmp_path):
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    write("xtc", tmp_path / "t.xtc", structure, frames(structure))
    with XTCTrajectoryFile(str(tmp_path / "t.xtc")) as file:
        _, time, step, _ = file.read()
    assert time == pytest.approx([0.005, 0.010, 0.015, 0.020])
    assert step.tolist() == [10, 20, 30, 40]


def test_dcd_is_openmms_dcd(tmp_path):
    """The same frames through OpenMM's writer: the same bytes, but for the comment and the creation date."""
    from openmm import app, unit

    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    written = frames(structure)
    write("dcd", tmp_path / "ours.dcd", structure, written)
    with open(tmp_path / "theirs.dcd", "wb") as file:
        theirs = app.DCDFile(file, structure.topology, 0.5e-3, 10, 10)
        for frame in written:
            theirs.writeModel(frame.positions * unit.nanometer, periodicBoxVectors=frame.box * unit.nanometer)
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("ours.dcd", "theirs.dcd"))
    assert ours[:100] == theirs[:100]
    assert ours[260:276] == theirs[260:276]
    cells = [np.frombuffer(content[276 + 4 : 276 + 52], "<f8") for content in (ours, theirs)]
    assert np.allclose(*cells, atol=1e-12)
    assert ours[332:][: 3 * (4 * 24 + 8)] == theirs[332:][: 3 * (4 * 24 + 8)]


def test_extxyz_is_read_by_ase(tmp_path):
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    written = frames(structure)
    write("extxyz", tmp_path / "t.extxyz", structure, written)
    read = ase.io.read(tmp_path / "t.extxyz", ":")
    assert len(read) == 4
    assert np.allclose(read[2].positions, 10 * written[2].positions, atol=1e-7)
    assert np.allclose(read[2].cell, 10 * TRICLINIC, atol=1e-7)
    assert read[2].pbc.all()
    assert read[2].info["step"] == 30
    assert read[2].info["interaction_energy"] == pytest.approx(-37.5 / 96.48533212331002)


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path[:0] = [{root!r} + '/tests', {root!r} + '/tests/md/files']
from test_trajectory import frames
from mace_md.structures.structure import read_structure
from mace_md.md.files.trajectory import open_trajectory
structure = read_structure({structure!r})
trajectory = open_trajectory({kind!r}, Path({path!r}), structure.topology, 0.5, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # the disk is full after 2000 bytes
written = 0
try:
    for frame in frames(structure, 50):
        trajectory.append(frame)
        written += 1
except OSError as error:
    print(written, trajectory.size, error.filename)
"""


@pytest.mark.parametrize("kind", ["dcd", "xtc", "extxyz"])
def test_full_disk_leaves_whole_frames(tmp_path, repository, kind):
    pdb = water_pdb(tmp_path / "w.pdb", per_side=2)
    path = tmp_path / f"t.{kind}"
    script = FULL_DISK.format(root=str(repository), structure=str(pdb), kind=kind, path=str(path))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, size, name = run.stdout.split()
    assert int(count) > 0
    assert int(size) == path.stat().st_size
    assert name == str(path)
    if kind == "extxyz":
        assert len(ase.io.read(path, ":")) == int(count)
    else:
        read = mdtraj.load(str(path), top=str(pdb))
        assert read.n_frames == int(count)


def test_topology_keeps_residues_and_goes_to_cif_beyond_pdb(tmp_path, monkeypatch):
    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    path = write_topology(tmp_path, structure)
    assert path.name == "topology.pdb"
    assert mdtraj.load(str(path)).topology.n_bonds == 16
    monkeypatch.setattr(reporters, "MOST_ATOMS_IN_PDB", 10)
    path = write_topology(tmp_path, structure)
    assert path.name == "topology.cif"
    assert np.allclose(read_structure(path).positions, structure.positions, atol=1e-4)


def test_log_table_leaves_what_does_not_exist_empty(tmp_path):
    table = LogTable(tmp_path / "log.csv")
    assert table.is_empty
    table.append(Row(5, 0.0025, -1.5, 2.0, None, 300.0, None, None, None))
    header, row = (tmp_path / "log.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(values["total_kJ_mol"]) == 0.5
    assert values["conserved_kJ_mol"] == values["volume_nm3"] == values["speed_ns_day"] == ""
    assert not LogTable(tmp_path / "log.csv").is_empty


def test_a_log_that_an_older_version_began_keeps_its_columns(tmp_path):
    """Rows with more columns than the header has would be read as others."""
    row = Row(5, 0.0025, -1.5, 2.0, None, 300.0, 8.0, 1.0, None, extra=(2.0, -0.25))
    LogTable(tmp_path / "log.csv", ("restraint_kJ_mol",))
    LogTable(tmp_path / "log.csv", ("box_a_nm", "restraint_kJ_mol")).append(row)
    header, cells = (tmp_path / "log.csv").read_text().splitlines()
    assert "box_a_nm" not in header
    assert dict(zip(header.split(","), cells.split(","), strict=True))["restraint_kJ_mol"] == "-0.250000"


def test_progress_is_quiet_off_a_terminal():
    """At most twenty lines and the last, however many rows."""
    lines = []
    progress = Progress(0, 1000, 1.0, lines.append, terminal=False)
    for step in range(1, 1001):
        progress.show(Row(step, step / 1000, 0.0, 0.0, None, 300.0, None, None, None))
    assert 20 <= len(lines) <= 21
    assert lines[-1].startswith("step 1000/1000")
    assert "ns/day" in lines[0]
    assert "left" in lines[0]


def test_progress_on_a_terminal_is_one_line_that_moves_between_reports(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(reporters.time, "perf_counter", lambda: clock[0])
    progress = Progress(0, 100, 1.0, print, terminal=True)
    for step in range(101):
        clock[0] += 0.25
        if step % 50 == 0:
            progress.show(Row(step, step / 1000, -7.0, 0.0, None, 300.0 + step, None, None, None))
        progress.tick(step)
    progress.close()
    progress.close()
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.endswith("\n")
    shown = [text for text in out.strip().split("\r\033[K") if text]
    assert len(shown) == pytest.approx(51, abs=2)  # each half second
    assert shown[10].startswith("step 20/100")
    assert "300 K" in shown[10]
    assert shown[-1].startswith("step 100/100")
    assert "400 K" in shown[-1]


def test_progress_speed_is_simulated_time_over_wall_time(monkeypatch):
    clock = iter([0.0, 8.64, 8.64])
    monkeypatch.setattr(reporters.time, "perf_counter", lambda: next(clock))
    progress = Progress(100, 1000, 2.0, print, terminal=False)
    assert progress.speed(150) == pytest.approx(1.0)  # 50 steps of 2 fs in 8.64 s: 1e-4 ns in 1e-4 days


@pytest.mark.parametrize("wrap", [True, False])
def test_molecules_are_wrapped_whole_or_followed(tmp_path, wrap):
    """Water without forces at 10 nm/ps crosses its 0.62 nm box: wrapped, or exactly where it flew to."""
    import openmm
    from openmm import app

    from mace_md.md.system import molecule_bonds

    structure = read_structure(water_pdb(tmp_path / "w.pdb", per_side=2))
    system = openmm.System()
    for mass in structure.masses:
        system.addParticle(mass)
    system.setDefaultPeriodicBoxVectors(*structure.box)
    system.addForce(molecule_bonds(structure.molecules.bonds.tolist()))
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(structure.topology, system, openmm.VerletIntegrator(1e-3), platform)
    simulation.context.setPositions(structure.positions)
    velocity = np.array([10.0, -3.0, 0.0])
    simulation.context.setVelocities(np.tile(velocity, (len(structure.positions), 1)))
    readout = Readout(simulation, SimpleNamespace(num_dof=72), {})
    constant = SimpleNamespace(columns=())
    recorder = reporters.Recorder(
        simulation, tmp_path, readout=readout, course=constant, total_mass=1.0, timestep=1.0, kinds=("xtc",),
        interval=40, wrap=wrap,
    )  # fmt: skip
    for _ in range(3):
        simulation.step(40)
        recorder.frame(simulation.currentStep)
    read = mdtraj.load(str(tmp_path / "trajectory.xtc"), top=str(write_topology(tmp_path, structure)))
    pairs = structure.molecules.bonds
    lengths = np.linalg.norm(read.xyz[:, pairs[:, 0]] - read.xyz[:, pairs[:, 1]], axis=-1)
    assert np.allclose(lengths, 0.0957, atol=2e-3)  # XTC keeps three digits
    flown = structure.positions + velocity * 0.04 * np.arange(1, 4)[:, None, None]
    if wrap:
        centres = read.xyz.reshape(3, -1, 3, 3).mean(axis=2)
        assert centres.min() > -1e-3 and centres.max() < structure.box[0, 0] + 1e-3
        shifts = (read.xyz - flown) / structure.box[0, 0]
        assert np.allclose(shifts, np.round(shifts), atol=3e-3)
        assert np.abs(shifts).max() > 0.5
    else:
        assert np.allclose(read.xyz, flown, atol=1e-3)
