"""Several runs at the same time: places, exit codes, signals; with stand-ins for the runs, and with runs."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter

import pytest
from water_box import water_pdb

from mace_md.cli import main
from mace_md.config import RunConfig
from mace_md.errors import CleanStop, InputError, UsageError
from mace_md.md.many.replicas import replicas_of
from mace_md.md.many.workers import last_row, run_at_once
from mace_md.md.stepping.simulation import choose_platform

HEADER = "step,time_ps,potential_kJ_mol,speed_ns_day"


@pytest.fixture
def config(tmp_path):
    """Options for four runs, two at a time."""

    def build(**options):
        defaults = {"seeds": (1, 2, 3, 4), "processes": 2, "output": tmp_path / "out", "steps": 100, "quiet": True}
        return RunConfig(structure=tmp_path / "w.pdb", model="m", **(defaults | options))

    return build


def run(config, script, folder=True):
    """Run with a shell script in place of `mace-md run`: it finds its folder in $0 and its options in $1."""
    return run_at_once(
        config,
        replicas_of(config),
        lambda own, options: [
            "sh",
            "-c",
            "mkdir -p $0; : > $0/run.log; " * folder + script,
            str(own.output),
            str(options),
        ],
    )


def states(folder):
    with open(folder / "summary.csv") as file:
        return [row["state"] for row in csv.DictReader(file)]


def test_runs_are_shared_out_among_the_gpus_and_no_gpu_has_two(config, tmp_path):
    busy = "mkdir $0/../gpu$(sed -n 's/device_index = .\\(.*\\)./\\1/p' $1)"  # fails where the folder is there
    script = f"cp $1 $0/run.toml; {busy} || exit 1; sleep 0.3; {busy.replace('mkdir', 'rmdir')}"
    assert run(config(device_index=(0, 3), processes=None, threads=5), script) == 0
    found = [tomllib.loads((tmp_path / "out" / f"seed{seed}" / "run.toml").read_text()) for seed in (1, 2, 3, 4)]
    assert Counter(tuple(own["device_index"]) for own in found) == {(0,): 2, (3,): 2}
    assert [own["seed"] for own in found] == [1, 2, 3, 4]
    assert all(own["threads"] == 5 and "seeds" not in own and "processes" not in own for own in found)
    assert states(tmp_path / "out") == ["done"] * 4


def test_so_many_at_a_time_and_an_equal_share_of_the_cores(config, tmp_path):
    script = "cp $1 $0/run.toml; touch $0/on; ls $0/../*/on | wc -l > $0/together; sleep 0.4; rm $0/on"
    assert run(config(processes=3), script) == 0
    together = [int((tmp_path / "out" / f"seed{seed}" / "together").read_text()) for seed in (1, 2, 3, 4)]
    assert max(together) <= 3 and max(together[:3]) >= 2  # a process that is slow to start may miss the others
    threads = tomllib.loads((tmp_path / "out" / "seed1" / "run.toml").read_text())["threads"]
    assert threads == max(1, len(os.sched_getaffinity(0)) // 3)


@pytest.mark.parametrize(
    ("codes", "worst", "said"),
    [
        ((0, 3, 0, 0), 3, "stopped by a safety rule"),
        ((0, 3, 1, 0), 1, "failed"),
        ((0, 0, 9, 3), 1, "failed"),  # no code of ours: a crash
    ],
)
def test_one_run_does_not_take_the_others_along_and_the_worst_code_is_returned(config, tmp_path, codes, worst, said):
    cases = " ".join(f"*seed{seed}) exit {code};;" for seed, code in zip((1, 2, 3, 4), codes, strict=True))
    assert run(config(), f"case $0 in {cases} esac") == worst
    found = states(tmp_path / "out")
    assert found.count("done") == codes.count(0)
    assert said in found


def test_a_killed_run_is_named_and_the_others_finish(config, tmp_path, caplog):
    assert run(config(), "case $0 in *seed2) kill -9 $$;; esac") == 1
    assert states(tmp_path / "out") == ["done", "failed", "done", "done"]
    assert "seed2: failed (exit code -9): ended by SIGKILL" in caplog.text


def test_what_every_run_would_refuse_is_refused_once_and_leaves_nothing(config, tmp_path, caplog):
    assert run(config(), "sleep 0.3; echo 'mace-md: no such file' >&2; exit 1", folder=False) == 1
    assert "no such file" in caplog.text and "are not started" in caplog.text
    assert "seed3: started" not in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_every_run_with_a_checkpoint_and_starts_no_other(config, tmp_path):
    script = f"trap 'echo {HEADER} > $0/log.csv; exit 4' TERM; touch $0/up; while :; do sleep 0.05; done"

    def stop_when_up():
        while len(list((tmp_path / "out").glob("*/up"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_up).start()
    with pytest.raises(CleanStop, match=r"stopped by SIGTERM: 4 of 4 runs .* not done.*--restart"):
        run(config(), script)
    assert states(tmp_path / "out") == ["stopped", "stopped", "not started", "not started"]


def test_a_second_interrupt_ends_at_once_and_leaves_no_process(config, tmp_path):
    script = "trap : TERM; trap 'exit 130' INT; echo $$ > $0/pid; while :; do sleep 0.05; done"

    def interrupt_twice():
        while len(list((tmp_path / "out").glob("*/pid"))) < 2:
            time.sleep(0.02)
        time.sleep(0.3)  # the trap is set before the file is there, but the file may still be empty
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    threading.Thread(target=interrupt_twice).start()
    with pytest.raises(KeyboardInterrupt):
        run(config(), script)
    for path in (tmp_path / "out").glob("*/pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_the_summary_leaves_out_a_row_that_is_being_written(config, tmp_path):
    rows = (
        "step,temperature_K,potential_kJ_mol,total_kJ_mol,volume_nm3,density_g_mL\\n0,300,-5,-4,,\\n10,310,-6,-4,,\\n"
    )
    assert run(config(), f"printf '{rows}20,3' > $0/log.csv; sleep 0.3") == 0
    with open(tmp_path / "out" / "summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["temperature_K"]) for row in rows] == [("10", "305")] * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", (0, 0.0)), (HEADER + "\n", (0, 0.0)), (HEADER + "\n0,0,-5,\n", (0, 0.0)),
     (HEADER + "\n0,0,-5,\n50,0.1,-5,31.5\n", (50, 31.5)), (HEADER + "\n50,0.1,-5,31.5\n100,0.2,-", (50, 31.5))],
)  # fmt: skip
def test_progress_is_the_last_whole_row(tmp_path, text, expected):
    (tmp_path / "log.csv").write_text(text)
    assert last_row(tmp_path / "log.csv") == expected
    assert last_row(tmp_path / "none.csv") == (0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": None, "processes": None, "device_index": (0, 1)}, r"--device-index 0,1: this is one run, .*--seeds"),
        ({"seeds": None, "processes": 2}, r"--processes 2: this is one run"),
        ({"device_index": (1, 1)}, r"twice.*--processes 2"),
        ({"device_index": (0, 1, 2), "processes": 2}, r"3 GPUs need --processes 3"),
    ],
)
def test_devices_that_cannot_be_used_are_refused(config, options, message):
    with pytest.raises(UsageError, match=message):
        config(**options)


@pytest.mark.parametrize("platform", ["CPU", "Reference"])
def test_the_number_of_a_gpu_is_not_ignored_on_a_platform_without(platform):
    with pytest.raises(InputError, match=r"--device-index 1 is for GPUs"):
        choose_platform(platform, device_index=1)


# ------------------------------------------------------------------------------------------------ with real runs


def test_stopped_and_continued_runs_are_those_of_single_commands(tmp_path, tiny_model, repository):
    """SIGTERM to the command in the middle, then --restart: byte for byte what one run after the other gives."""
    water = water_pdb(tmp_path / "water.pdb", per_side=2)
    words = [
        "run", str(water), "--model", str(tiny_model), "--timestep", "0.25", "--no-minimize", "--threads", "1",
        "--platform", "Reference", "--kernels", "reference", "--dtype", "float64", "--check", "skip",
        "--report-interval", "5", "--trajectory-interval", "10", "--checkpoint-interval", "10", "--bond-break",
        "ignore", "--closest-contact", "0", "--max-force", "1e6", "--max-temperature", "1e6", "--seeds",
        "1,2", "--steps", "200",
    ]  # fmt: skip
    several = [sys.executable, "-m", "mace_md", *words, "--processes", "2", "--output", str(tmp_path / "set")]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    process = subprocess.Popen(several, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while not all(last_row(tmp_path / "set" / f"seed{seed}" / "log.csv")[0] > 10 for seed in (1, 2)):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, out + err
    assert "runs in" in err and "--restart" in err

    done = subprocess.run([*several, "--restart"], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(tmp_path / "set") == ["done"] * 2
    assert main([*words, "--output", str(tmp_path / "turn")]) == 0
    for seed in (1, 2):
        one, two = (tmp_path / name / f"seed{seed}" for name in ("set", "turn"))
        assert (one / "trajectory.dcd").read_bytes() == (two / "trajectory.dcd").read_bytes()
        rows = [(folder / "log.csv").read_text().splitlines() for folder in (one, two)]
        assert [row.rpartition(",")[0] for row in rows[0]] == [row.rpartition(",")[0] for row in rows[1]]
    again = [*words[: words.index("--seeds")], "--seed", "2", "--steps", "210", "--output", str(two.parent / "seed2")]
    assert main([*again, "--restart"]) == 0  # one of them alone goes on like any run
    assert last_row(two.parent / "seed2" / "log.csv")[0] == 210
