"""`mace-md run` as a person uses it: one line in, a folder out; and every mistake gets its message and exit code."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import ase.io
import mdtraj
import numpy as np
import pytest
import torch
from water_box import water_pdb

from mace_md.cli import main
from mace_md.md import assembly
from mace_md.model.reading.checkpoint import load_model, save_model

QUICK = ["--steps", "20", "--report-interval", "5", "--trajectory-interval", "10", "--checkpoint-interval", "10"]
QUICK += [
    "--seed",
    "3",
    "--timestep",
    "0.5",
    "--no-minimize",
    "--bond-break",  # random weights hold no molecule together
    "warn",
    "--threads",
    "1",
    "--platform",
    "Reference",
    "--kernels",
    "reference",
]


@pytest.fixture
def box(tmp_path):
    return water_pdb(tmp_path / "water.pdb", per_side=2)


@pytest.fixture
def run(tmp_path, box, tiny_model, capsys, monkeypatch):
    """Run `mace-md run` on the water box; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, structure=box, model=tiny_model, quick=QUICK):
        capsys.readouterr()
        code = main(["run", str(structure), "--model", str(model), *quick, *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def rows(folder):
    with open(folder / "log.csv") as file:
        return [row[:-1] for row in csv.reader(file)]  # the last column is the speed


def same_results(one, two, kinds=("dcd",)):
    assert rows(one) == rows(two)
    for kind in kinds:
        assert (one / f"trajectory.{kind}").read_bytes() == (two / f"trajectory.{kind}").read_bytes()


# ------------------------------------------------------------------------------------------------ what comes out


def test_run_leaves_a_folder_that_mdtraj_opens(run, tmp_path):
    code, out, _ = run("--minimize", "--minimize-iterations", "20")
    folder = tmp_path / "water-run"
    assert code == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "topology.pdb", "trajectory.dcd", "log.csv", "checkpoint.chk", "checkpoint_previous.chk", "state.xml",
        "run.toml", "run.json", "run.log",
    }  # fmt: skip
    trajectory = mdtraj.load(str(folder / "trajectory.dcd"), top=str(folder / "topology.pdb"))
    assert (trajectory.n_frames, trajectory.n_atoms) == (2, 24)
    assert [row[0] for row in rows(folder)] == ["step", "0", "5", "10", "15", "20"]
    for said in ("self-check:", "molecules", "cutoff", "closest contact", "degrees of freedom", "ns/day", "minimise:"):
        assert said in out
        assert said in (folder / "run.log").read_text()


def test_kernels_of_the_default_run_too(run, tmp_path):
    """Whatever kernels are built here, the self-check passes, and a continued run equals one in one piece."""
    quick = [word for word in QUICK if word not in ("--kernels", "reference")]
    options = ["--ensemble", "nve"]
    assert run("--output", "whole", *options, "--steps", "30", quick=quick)[0] == 0
    assert run("--output", "parts", *options, "--steps", "15", quick=quick)[0] == 0
    assert run("--output", "parts", *options, "--steps", "30", "--restart", quick=quick)[0] == 0
    same_results(tmp_path / "whole", tmp_path / "parts")


def test_record_says_what_was_run(run, tmp_path, tiny_model):
    run()
    record = json.loads((tmp_path / "water-run" / "run.json").read_text())
    assert record["seed"] == 3
    assert record["platform"] == "Reference"
    assert record["model"]["sha256"] == load_model(tiny_model).info.sha256
    assert record["self_check"]["force_deviation"] < record["self_check"]["force_allowed"]
    assert record["timings"]["production_ns_day"] > 0
    assert record["versions"]["openmm"]
    assert record["inputs"]["structure"]["sha256"]


def test_resolved_options_repeat_the_run(run, tmp_path):
    run("--ensemble", "nvt", "--thermostat", "bussi")
    options = tomllib.loads((tmp_path / "water-run" / "run.toml").read_text())
    assert options["seed"] == 3
    assert options["friction"] == 1.0
    assert main(["run", "--config", str(tmp_path / "water-run" / "run.toml"), "--output", str(tmp_path / "again")]) == 0
    same_results(tmp_path / "water-run", tmp_path / "again")


def test_drawn_seed_is_recorded(run, tmp_path):
    quick = [word for word in QUICK if word not in ("--seed", "3")]
    run(quick=quick)
    assert tomllib.loads((tmp_path / "water-run" / "run.toml").read_text())["seed"] > 0


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover", "bussi"])
@pytest.mark.parametrize("barostat", ["isotropic", "flexible"])
def test_npt_moves_molecules_and_says_so(run, tmp_path, thermostat, barostat):
    npt = ["--ensemble", "npt", "--thermostat", thermostat, "--barostat", barostat, "--barostat-interval", "1"]
    code, out, _ = run(*npt, "--steps", "40", "--check", "skip")
    assert code == 0
    assert "scales the centres of 8 rigid molecules" in out
    volumes = {row[7] for row in rows(tmp_path / "water-run")[1:]}
    assert len(volumes) > 1


def test_a_barostat_does_not_draw_its_first_numbers_again_after_a_restart(run, tmp_path, monkeypatch):
    seeds, make = [], assembly.make_barostat

    def noted(*kind, seed, **rest):
        seeds.append(seed)
        return make(*kind, seed=seed, **rest)

    monkeypatch.setattr(assembly, "make_barostat", noted)
    for steps in (10, 20, 30):
        restart = ["--restart"] * (steps > 10)
        assert run("--ensemble", "npt", "--steps", str(steps), "--check", "skip", *restart)[0] == 0
    assert seeds == [3, assembly.seed_after(3, 10), assembly.seed_after(3, 20)]
    found = {assembly.seed_after(seed, step) for seed in (3, 4) for step in range(-50, 50)}
    assert len(found) == 200 and all(0 < seed < 2**31 for seed in found)


def test_all_formats_and_vacuum(run, tmp_path, tmp_path_factory):
    pdb = water_pdb(tmp_path / "drop.pdb", per_side=2, periodic=False)
    code, _, _ = run("--trajectory-format", "dcd,xtc,extxyz", "--ensemble", "nve", structure=pdb)
    folder = tmp_path / "drop-run"
    assert code == 0
    for kind in ("dcd", "xtc"):
        assert mdtraj.load(str(folder / f"trajectory.{kind}"), top=str(folder / "topology.pdb")).n_frames == 2
    energies = np.array([float(row[5]) for row in rows(folder)[1:]])
    assert np.ptp(energies) < 0.05  # kJ/mol, of a kinetic energy near 80


def test_exported_potential_runs(run, tmp_path, tiny_model):
    from mace_md.model.artifact import export_potential

    path = tmp_path / "potential.pt"
    export_potential(load_model(tiny_model, dtype="float32"), [8, 1, 1] * 8, path, periodic=True, kernels="reference")
    code, _, err = run(model=path)
    assert (code, "say --trust-pickle" in err) == (1, True)
    assert not (tmp_path / "water-run").exists()
    code, out, _ = run("--trust-pickle", model=path)
    assert code == 0
    assert "an exported potential, compared with its model when it was written" in out


def test_options_fixed_at_export_are_refused(run, tmp_path, tiny_model):
    from mace_md.model.artifact import export_potential

    path = tmp_path / "potential.pt"
    model = load_model(tiny_model, dtype="float64")
    export_potential(model, [8, 1, 1] * 8, path, periodic=True, kernels="reference", skin=0.7)
    quick = [word for word in QUICK if word not in ("--kernels", "reference")]
    given = {"dtype": "float32", "head": "dft", "kernels": "native", "skin": "0.5"}
    for option, value in given.items():
        code, _, err = run("--trust-pickle", f"--{option}", value, model=path, quick=quick)
        assert code == 1
        assert f"--{option} {value}: " in err
        assert f"was exported with {option} " in err
        assert not (tmp_path / "water-run").exists()
    code, _, err = run("--trust-pickle", "--charge", "1", model=path, quick=quick)
    assert (code, "has no input for the charge" in err) == (1, True)
    assert run("--trust-pickle", "--dtype", "float64", model=path, quick=quick)[0] == 0
    options = tomllib.loads((tmp_path / "water-run" / "run.toml").read_text())
    assert (options["dtype"], options["skin"]) == ("float64", 0.7)
    assert run("--trust-pickle", "--steps", "30", "--restart", model=path, quick=quick)[0] == 0


def test_minimisation_that_does_not_converge_goes_on(run):
    code, out, _ = run("--minimize", "--minimize-iterations", "1", "--minimize-tolerance", "1e-3", "--steps", "1")
    assert code == 0
    assert "minimise: not converged after 1 iterations (the run goes on)" in out


def test_full_disk_keeps_the_checkpoint_and_the_run_continues(box, tiny_model, tmp_path, repository):
    """The limit on the length of a file stands in for the disk: the trajectory meets it first."""
    words = command(box, tiny_model, tmp_path / "out", "--steps", "60", "--trajectory-interval", "1")
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *words],
        env=environment(repository), cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert limited.returncode == 1
    assert len(limited.stderr.splitlines()) == 1
    assert "trajectory.dcd: cannot be written" in limited.stderr
    assert "make room and continue with the same command and --restart" in limited.stderr
    assert main([*words[3:], "--restart"]) == 0
    whole = [str(tmp_path / "whole") if word == str(tmp_path / "out") else word for word in words]
    assert main(whole[3:]) == 0
    same_results(tmp_path / "whole", tmp_path / "out")


# ------------------------------------------------------------------------------------------------ what goes wrong


def edited(path, old, new):
    path.write_text(path.read_text().replace(old, new))


ZINC = "HETATM   25 ZN   ZN  A 301       1.500   1.500   1.500  1.00  0.00          ZN\nEND\n"
MISTAKES = {
    "unknown element": ([], ("END\n", ZINC), 1, "element Zn (residue ZN 301, atom 25) is not in"),
    "missing hydrogens": ([], (" H1  HOH", " X   HOH"), 1, "has no hydrogens, or too few"),
    "not a number": ([], ("   0.957", "     NaN"), 1, "are not finite numbers"),
    "box too small": (["--box", "3,3,3"], None, 1, "The box is smaller than what is in it"),
    "charge": (["--charge", "1"], None, 1, "has no input for the charge"),
    "spin": (["--spin", "3"], None, 1, "has no input for the spin"),
    "head": (["--head", "dft"], None, 1, "dft"),
    "pressure without npt": (["--pressure", "1"], None, 2, "--pressure needs ensemble = npt (it is nvt)"),
    "unknown option": (["--temprature", "300"], None, 2, "--temperature"),
    "npt without box": (["--ensemble", "npt", "--periodic", "no"], None, 1, "npt needs a periodic box"),
    "tensor cores of a CPU": (
        ["--kernels", "native", "--tensor-cores", "on", "--platform", "CPU"],
        None,
        2,
        "--platform CPU has none",
    ),
    "platform": (["--platform", "HIP"], None, 1, "--platform HIP: this OpenMM has Reference, CPU"),
    "output is a file": (["--output", "water.pdb"], None, 1, "is a file, and the output has to be a folder"),
    "output cannot be made": (["--output", "water.pdb/out"], None, 1, "water.pdb/out"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_has_a_message_an_exit_code_and_no_folder(run, box, tmp_path, mistake):
    arguments, edit, expected_code, message = MISTAKES[mistake]
    if edit:
        lines = box.read_text()
        if mistake == "missing hydrogens":
            box.write_text("".join(line for line in lines.splitlines(True) if " H1 " not in line))
        else:
            edited(box, *edit)
    code, _, err = run(*arguments)
    assert code == expected_code
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "water-run").exists()


def test_existing_folder_is_not_touched(run, tmp_path):
    run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "water-run").iterdir()}
    code, _, err = run()
    assert code == 1
    assert "is not empty" in err
    assert "--restart" in err
    assert "--output" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "water-run").iterdir()} == before


def test_missing_model_and_damaged_model(run, tmp_path, tiny_model):
    good = tiny_model.read_bytes()
    noise = np.random.default_rng(0).bytes(50_000)
    damaged = {"empty": b"", "page": b"<!DOCTYPE html><html>404</html>", "cut": good[: len(good) // 2], "noise": noise}
    for suffix in ("model", "mace", "pt"):
        code, _, err = run(model=tmp_path / f"nothing.{suffix}")
        assert (code, len(err.splitlines())) == (1, 1)
        for name, content in damaged.items():
            path = tmp_path / f"{name}.{suffix}"
            path.write_bytes(content)
            code, _, err = run(model=path)
            assert (code, len(err.splitlines())) == (1, 1), (path, err)
            assert path.name in err
    assert not (tmp_path / "water-run").exists()


def test_model_without_sense_stops_before_step_one(run, tmp_path, tiny_model):
    """A model whose energies overflow in float32, not in float64: the self-check sees it and nothing is started."""
    model = load_model(tiny_model)
    model.scale *= 1e39
    path = save_model(model, tmp_path / "huge.mace")
    code, _, err = run(model=path)
    assert code in (1, 3)
    assert "Traceback" not in err
    assert not (tmp_path / "water-run").exists()


def test_run_that_explodes_at_once_exits_with_3_and_leaves_no_checkpoint_of_it(run, tmp_path, tiny_model):
    """Energies out of the range of numbers: the velocities are none either."""
    model = load_model(tiny_model)
    model.scale *= 1e308
    path = save_model(model, tmp_path / "wild.mace")
    code, _, err = run("--check", "skip", "--dtype", "float64", model=path)
    assert code == 3
    assert "positions or velocities of all 24 atoms are not finite numbers" in err
    assert "Traceback" not in err
    assert not (tmp_path / "water-run" / "checkpoint.chk").exists()


def test_unphysical_run_exits_with_3_names_the_atoms_and_saves_two_frames(run, tmp_path):
    """A step far too long for bonds to hydrogen, with a force that can be evaluated all the time."""
    code, out, err = run("--timestep", "12", "--steps", "400", "--ensemble", "nve", "--check", "skip")
    assert code == 3
    assert re.search(r"atom \d+ \(\w+, HOH \d\)", err)
    assert "Traceback" not in err
    (frames,) = (tmp_path / "water-run").glob("stop_step*.extxyz")
    good, bad = ase.io.read(frames, index=":")
    assert (good.info["frame"], bad.info["frame"]) == ("last good", "bad")
    assert str(frames.name) in err
    assert run("--timestep", "0.5", structure=f"{frames}@0", quick=QUICK)[0] == 0  # the good one starts another run


# ------------------------------------------------------------------------------------------------ stop and go on


def test_time_limit_stops_with_4_and_restart_finishes(run, tmp_path):
    run("--output", "whole", "--ensemble", "nve", "--dtype", "float64")
    code, _, err = run("--output", "parts", "--ensemble", "nve", "--dtype", "float64", "--max-hours", "1e-6")
    assert code == 4
    assert "--restart" in err
    code, out, _ = run("--output", "parts", "--ensemble", "nve", "--dtype", "float64", "--restart")
    assert code == 0
    assert "restart from" in out
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert len(record["earlier"]) == 1


def test_longer_run_continues_and_equals_one_piece(run, tmp_path):
    """Bit for bit with Verlet on the Reference platform, in float64 and float32."""
    for dtype in ("float64", "float32"):
        options = ["--ensemble", "nve", "--dtype", dtype, "--trajectory-format", "dcd,xtc,extxyz"]
        run("--output", f"whole{dtype}", *options, "--steps", "40")
        run("--output", f"parts{dtype}", *options, "--steps", "17")
        code, _, _ = run("--output", f"parts{dtype}", *options, "--steps", "40", "--restart")
        assert code == 0
        same_results(tmp_path / f"whole{dtype}", tmp_path / f"parts{dtype}", ("dcd", "xtc", "extxyz"))


def test_restart_of_a_finished_run_changes_no_result(run, tmp_path):
    run()
    before = rows(tmp_path / "water-run"), (tmp_path / "water-run" / "trajectory.dcd").read_bytes()
    code, out, _ = run("--restart")
    assert code == 0
    assert "give more --steps" in out
    assert before == (rows(tmp_path / "water-run"), (tmp_path / "water-run" / "trajectory.dcd").read_bytes())


def test_restart_without_anything_begins(run, tmp_path):
    code, out, _ = run("--restart")
    assert code == 0
    assert "starts at its beginning" in out
    assert len(rows(tmp_path / "water-run")) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--temperature", "310"], "temperature was 300.0, is 310.0"),
        (["--dtype", "float64"], "dtype was float32, is float64"),
        (["--seed", "4"], "seed was 3, is 4"),
    ],
)
def test_restart_with_another_option_is_refused(run, tmp_path, change, message):
    run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "water-run").iterdir()}
    code, _, err = run("--restart", *change)
    assert code == 1
    assert message in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "water-run").iterdir()} == before


def test_restart_with_another_model_or_structure_is_refused(run, tmp_path, tiny_model, box):
    run()
    model = load_model(tiny_model)
    with torch.no_grad():
        model.embedding += 0.01
    del model.info
    other = save_model(model, tmp_path / "other.mace")
    code, _, err = run("--restart", model=other)
    assert code == 1
    assert "model (sha256) was" in err
    edited(box, "   0.927", "   0.928")
    code, _, err = run("--restart")
    assert code == 1
    assert "structure (sha256) was" in err


# The random weights of the tiny model let atoms do what no physics allows.
UNWATCHED = ["--closest-contact", "0", "--max-force", "1e6", "--max-temperature", "1e6"]


def command(box, model, folder, *more):
    return [
        sys.executable, "-m", "mace_md", "run", str(box), "--model", str(model), *QUICK, "--output", str(folder),
        "--ensemble", "nve", "--dtype", "float64", "--check", "skip", *UNWATCHED, *more,
    ]  # fmt: skip


def environment(repository):
    return os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}


def wait_for(path, pattern, process, seconds=120):
    """Until the file has `pattern`; fails when the process ends first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and pattern in path.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {pattern!r}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_signal_loses_nothing(box, tiny_model, tmp_path, repository, number):
    """Stopped anywhere, continued to the end: the results of a run in one piece, byte for byte, with the kernels and
    the precision of a run for which nothing is said."""
    folder = tmp_path / "out"
    default = ["--trajectory-interval", "7", "--kernels", "auto", "--dtype", "float32"]
    words = command(box, tiny_model, folder, "--steps", "3000", *default)
    process = subprocess.Popen(
        words, env=environment(repository), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(folder / "log.csv", "\n40,", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 4
        assert f"stopped by {number.name}" in err
    done = int(rows(folder)[-1][0]) if rows(folder)[-1][0].isdigit() else 40
    assert done < 3000
    steps = str(done + 20)
    short = command(box, tiny_model, folder, "--steps", steps, *default)
    assert main([*short[3:], "--restart"]) == 0
    whole = command(box, tiny_model, tmp_path / "whole", "--steps", steps, *default)
    assert main(whole[3:]) == 0
    same_results(folder, tmp_path / "whole")


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from mace_md.cli import main
sys.exit(main({words!r}))
"""


def test_full_disk_during_the_run_keeps_the_checkpoint(box, tiny_model, tmp_path, repository):
    folder = tmp_path / "out"
    words = command(box, tiny_model, folder, "--trajectory-interval", "1", "--steps", "120")[3:]
    script = FULL_DISK.format(limit=30_000, words=words)
    process = subprocess.run(
        [sys.executable, "-c", script], env=environment(repository), cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 1, process.stderr
    assert "trajectory.dcd: cannot be written" in process.stderr
    assert "--restart" in process.stderr
    assert "Traceback" not in process.stderr
    assert main([*words, "--restart"]) == 0
    whole = command(box, tiny_model, tmp_path / "whole", "--trajectory-interval", "1", "--steps", "120")[3:]
    assert main(whole) == 0
    same_results(folder, tmp_path / "whole")
