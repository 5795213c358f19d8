"""The safety watch: what is no physics ends the run, named and saved; what is physics goes on untouched."""

import re

import ase.io
import numpy as np
import openmm
import pytest
from openmm import unit
from scipy import stats

from mace_md.errors import SafetyStop
from mace_md.md.files.frames import AtomNames, Snapshot
from mace_md.md.watch.limits import Limits, temperature_limit
from mace_md.md.watch.safety import SHARE, Watch
from mace_md.structures.molecules import close_pairs, face_distances
from mace_md.units import BOLTZMANN_KJ_MOL_K, EV_TO_KJ_MOL

NM = unit.nanometer


def begun(make_run, **options):
    """A run at step 0, with its checkpoint."""
    run = make_run(**options)
    run.begin()
    return run


def positions_of(run):
    return np.array(run.simulation.context.getState(positions=True).getPositions(asNumpy=True)._value)


def stopped(run, message):
    with pytest.raises(SafetyStop, match=message) as caught:
        run.produce()
    return str(caught.value)


def saved_frames(run):
    (path,) = run.folder.glob("stop_step*.extxyz")
    return ase.io.read(path, index=":")


# ------------------------------------------------------------------------------------------------ the limits


@pytest.mark.parametrize("num_dof", [3, 9, 69, 576, 30_000])
def test_no_thermostat_reaches_the_temperature_limit(num_dof):
    """By the chi-squared distribution itself: never in a run, and yet a few times the target for small systems only."""
    temperature = 900.0
    limit = temperature_limit(temperature, num_dof)
    assert stats.chi2.sf(limit / temperature * num_dof, num_dof) < 1e-12
    assert limit <= 30 * temperature
    if num_dof > 500:
        assert limit == 3 * temperature


def test_close_pairs_are_those_of_all_pairs_and_images():
    """Against every pair and every image, one by one, in skewed boxes and without a box."""
    rng = np.random.default_rng(5)
    for box in (None, np.diag([1.1, 0.9, 1.3]), np.array([[1.0, 0, 0], [0.4, 1.1, 0], [-0.45, 0.5, 0.9]])):
        x = rng.uniform(-0.4, 0.9, (60, 3)) * (1.0 if box is None else 2.0)
        images = [np.zeros(3)]
        if box is not None:
            images = [np.array(n) @ box for n in np.ndindex(11, 11, 11)]
            images = [image - 5 * box.sum(axis=0) for image in images]
        expected = {}
        for image in images:
            for i, j in zip(*np.triu_indices(60, 1), strict=True):
                distance = np.linalg.norm(x[i] - x[j] + image)
                if distance < 0.2:
                    expected.setdefault((i, j), []).append(distance)
        i, j, distances = close_pairs(x, box, 0.2)
        found = {}
        for a, b, distance in zip(i, j, distances, strict=True):
            found.setdefault((min(a, b), max(a, b)), []).append(distance)
        assert found.keys() == expected.keys()
        assert len(found) > 2
        for pair, values in expected.items():
            assert np.allclose(sorted(found[pair]), sorted(values), atol=1e-12)


def test_distances_between_faces():
    box = np.array([[2.0, 0, 0], [1.0, 2.0, 0], [0, 0, 5.0]])
    assert np.allclose(face_distances(box), [2.0 * 2.0 / np.hypot(2.0, 1.0), 2.0, 5.0], atol=1e-12)


# ------------------------------------------------------------------------------------------------ the rules


def test_fast_atom_stops_the_run_and_is_named(make_run):
    run = begun(make_run)
    velocities = np.array(run.simulation.context.getState(velocities=True).getVelocities(asNumpy=True)._value)
    velocities[13] = [0.0, 45.0, 0.0]  # nm/ps: 10.6 eV for a hydrogen
    run.simulation.context.setVelocities(velocities)
    text = stopped(run, r"atom 14 \(\w+, HOH 5\) has a kinetic energy of 1[01]\.\d eV \(limit 5\.0 eV\)")
    assert "step 0 (0.000 ps)" in text
    assert "The checkpoint in" in text
    *_, bad = saved_frames(run)
    assert np.allclose(bad.arrays["velocities"][13], [0.0, 0.45, 0.0], atol=1e-7)  # A/fs
    assert bad.info["frame"] == "bad"


def test_temperature_jump_between_two_looks(make_run):
    """Energy that is put in during the run, as a wrong force would: the frame before it is kept as well."""
    run = begun(make_run, steps=60, max_temperature=600)
    before = run.simulation.context.getState(positions=True)

    class Kick:
        """Stands in for a force that goes wrong: at step 30 it makes every atom faster."""

        def __call__(self, step):
            if step == 30:
                context = run.simulation.context
                context.setVelocities(3.0 * context.getState(velocities=True).getVelocities(asNumpy=True))

    frame = run._frame
    run._frame = lambda step: (Kick()(step), frame(step))
    text = stopped(run, r"step 30 \(0\.015 ps\): the temperature is \d+ K \(limit 600 K\), fastest atom")
    assert "step 20" in text
    good, bad = saved_frames(run)
    assert (good.info["frame"], good.info["step"], bad.info["frame"], bad.info["step"]) == ("last good", 20, "bad", 30)
    assert good.get_chemical_symbols() == ["O", "H", "H"] * 27
    assert good.arrays["atom_name"][0] == "O"
    assert good.arrays["residue"][0] == "HOH"
    assert good.pbc.all()
    assert np.allclose(good.cell.lengths(), 10 * before.getPeriodicBoxVectors()[0][0]._value)
    masses = np.array([run.simulation.system.getParticleMass(i)._value for i in range(81)])
    kinetic = 0.5 * (masses[:, None] * (bad.arrays["velocities"] * 100) ** 2).sum()  # A/fs -> nm/ps
    temperature = 2 * kinetic / (run.dynamics.num_dof * BOLTZMANN_KJ_MOL_K)
    assert f"the temperature is {temperature:.0f} K" in text
    assert np.isfinite(good.get_forces()).all()
    assert np.abs(bad.get_forces()).max() > 0.01


def test_atoms_too_close_through_the_box_are_named(make_run):
    run = begun(make_run)
    x = positions_of(run)
    x[3:6] += x[0] + run.structure.box[0] + [0.02, 0.0, 0.0] - x[3]  # an oxygen, 0.2 A from an image of another
    run.simulation.context.setPositions(x)
    text = stopped(run, r"atom 1 \(O, HOH 1\) and atom 4 \(O, HOH 2\) are 0\.20 A apart \(limit 0\.66 A")
    assert "--closest-contact" in text


def test_contacts_can_be_left_unwatched(make_run):
    run = begun(make_run, closest_contact=0, max_force=1e9, max_temperature=1e9, steps=1)
    x = positions_of(run)
    x[3:6] += x[0] + [0.02, 0.0, 0.0] - x[3]
    run.simulation.context.setPositions(x)
    run.produce()


@pytest.mark.parametrize("equilibration", [0, 30])
def test_force_over_the_limit_stops_also_where_nothing_is_written(make_run, equilibration):
    run = begun(make_run, equilibration_steps=equilibration, max_force=0.5)
    x = positions_of(run)
    x[40] += [0.02, -0.01, 0.0]
    run.simulation.context.setPositions(x)
    forces = run.simulation.context.getState(forces=True).getForces(asNumpy=True)._value / (10 * EV_TO_KJ_MOL)
    largest = np.linalg.norm(forces, axis=1)
    name = rf"atom {largest.argmax() + 1} \(\w+, HOH 14\)"
    text = stopped(run, rf"the force on {name} is {largest.max():.1f} eV/A \(limit 0\.5\)")
    assert f"step {-equilibration} " in text
    assert "--max-force" in text


def test_numbers_that_are_not_finite(make_run):
    run = begun(make_run)
    x = positions_of(run)
    x[7] = np.nan
    run.simulation.context.setPositions(x)
    text = stopped(run, r"atom 8 \(\w+, HOH 3\) are not finite numbers")
    *_, bad = saved_frames(run)
    assert np.isnan(bad.positions[7]).all()
    assert np.isfinite(bad.positions[:7]).all()
    assert "--minimize" in text


def break_first_bond(run):
    x = positions_of(run)
    bond = x[1] - x[0]
    x[1] += bond / np.linalg.norm(bond) * 0.06
    run.simulation.context.setPositions(x)


def test_broken_bond_stops_where_asked(make_run):
    run = begun(make_run, bond_break="stop", max_force=1000)
    break_first_bond(run)
    text = stopped(run, r"the bond atom 2 \(H1, HOH 1\) - atom 1 \(O, HOH 1\) broke: 1\.5\d A")
    assert "--bond-break warn" in text


def test_broken_bond_is_said_once_and_the_run_goes_on(make_run, caplog):
    run = begun(make_run, max_force=1000, max_temperature=1e5, safety_interval=1, steps=10, bond_break="warn")
    break_first_bond(run)
    with caplog.at_level("INFO", logger="mace_md"):
        run.produce()
    said = [record.message for record in caplog.records if " broke: " in record.message]
    assert len(said) == 1
    assert "safety: 1 of the 54 bonds of the starting structure broke" in caplog.text
    assert run.simulation.context.getStepCount() == 10


@pytest.mark.parametrize("stated", [True, False])
def test_by_default_bonds_that_somebody_stated_stop_a_run(make_run, water, stated, caplog):
    water.molecules.stated[:] = stated
    run = begun(make_run, max_force=1000, max_temperature=1e5, safety_interval=1, steps=10)
    break_first_bond(run)
    if stated:
        stopped(run, r"the bond atom 2 \(H1, HOH 1\) - atom 1 \(O, HOH 1\) broke: 1\.56 A")
    else:
        run.produce()
        assert caplog.text.count(" broke: ") == 1


@pytest.mark.parametrize("bond_break", ["auto", "stop", "warn"])
def test_minimum_with_a_broken_bond_is_refused(make_run, water, bond_break, caplog):
    """However the bond was found: here one between molecules, which their repulsion opens on the way down."""
    molecules = water.molecules
    ends = np.array([[0, 3]])
    pairs, stated = np.concatenate([molecules.bonds, ends]), np.concatenate([molecules.stated, [False]])
    object.__setattr__(molecules, "bonds", pairs)
    object.__setattr__(molecules, "stated", stated)
    water.positions[3:6] += water.positions[0] - water.positions[3] + [0.0, 0.0, 0.13]  # O-O of 1.3 A: a bond
    going = {"minimize": True, "minimize_iterations": 500, "minimize_tolerance": 0.01, "max_force": 1e4, "steps": 0}
    run = make_run(bond_break=bond_break, **going)
    if bond_break == "warn":
        run.begin()
        assert "warning: step 0: the bond atom 1 (O, HOH 1) - atom 4 (O, HOH 2) broke" in caplog.text
        return
    with pytest.raises(SafetyStop, match=r"minimisation: the bond atom 1 .*--no-minimize .* --bond-break warn"):
        run.begin()
    assert len(ase.io.read(run.folder / "stop_step0.extxyz", ":")) == 2  # the start and the minimum
    assert not (run.folder / "checkpoint.chk").exists()


def test_bonds_can_be_ignored(make_run, caplog):
    run = begun(make_run, max_force=1000, max_temperature=1e5, bond_break="ignore", steps=10)
    break_first_bond(run)
    run.produce()
    assert "broke" not in caplog.text


def test_box_that_shrinks_below_twice_the_cutoff(make_run, caplog):
    for what in ("warn", "stop"):
        run = make_run(what, small_box=what, steps=20)
        width = 10 * float(np.diag(run.structure.box).min())
        run.watch._r_max = 0.495 * width  # A; the box starts just above twice the cutoff
        run.begin()
        run.watch.look(0)
        x = positions_of(run)
        run.simulation.context.setPeriodicBoxVectors(*(0.98 * run.structure.box))
        run.simulation.context.setPositions(x)
        if what == "stop":
            stopped(run, r"the box is \d+\.\d\d A wide and has shrunk below twice the cutoff")
        else:
            run.produce()
            assert caplog.text.count("has shrunk below twice the cutoff") == 1


def test_box_that_is_small_from_the_start_is_not_warned_about_again(make_run, caplog):
    run = make_run(steps=20)
    run.watch._r_max = 100.0
    run.begin()
    run.produce()
    assert "has shrunk" not in caplog.text


def test_collapsed_box(make_run):
    run = begun(make_run, closest_contact=0, bond_break="ignore")
    snapshot = Snapshot(0, positions_of(run), np.zeros((81, 3)), 0.2 * run.structure.box)  # springs refuse such a box
    (finding,) = run.watch._findings(snapshot)
    assert re.match(r"the box has collapsed: a density of 12\d g/mL", finding.text)  # 1.004 g/mL at the start
    text = finding.remedy
    assert "--pressure" in text


# ------------------------------------------------------------------------------------------------ the cost


def test_watch_changes_no_digit_of_the_run(make_run):
    """Looks at every step or almost never: the same trajectory, random numbers included."""
    contents = []
    for interval in (1, 7, 1000):
        run = begun(make_run, output=f"every{interval}", ensemble="nvt", safety_interval=interval)
        run.produce()
        log = [line.rpartition(",")[0] for line in (run.folder / "log.csv").read_text().splitlines()]
        contents.append((log, (run.folder / "trajectory.dcd").read_bytes()))
    assert contents[0] == contents[1] == contents[2]


def watch_with_clock(run, seconds_per_look):
    """A watch whose looks take so long by a clock of its own, while a step takes 1 ms."""
    clock = {"now": 0.0, "calls": 0}

    def tell():
        clock["calls"] += 1
        clock["now"] += seconds_per_look / 2  # a look asks for the time when it begins and when it ends
        return clock["now"]

    watch = Watch(
        run.simulation, run.folder, Limits(300.0), bonds=run.structure.molecules.bonds, num_dof=72, timestep=0.5,
        clock=tell,
    )  # fmt: skip
    return watch, clock


def test_looks_that_cost_too_much_are_left_out_but_not_those_that_must_be(make_run):
    run = begun(make_run)
    watch, clock = watch_with_clock(run, seconds_per_look=0.010)
    with watch.on_duty(0, "test"):
        for step in range(20, 20_020, 20):
            clock["now"] += 0.020  # of steps
            watch.look(step)
    assert 5 < watch.timings["looks"] < 1000
    assert watch.timings["seconds"] <= SHARE * clock["now"] + 0.02
    looks = watch.timings["looks"]
    for step in range(20_020, 20_030):
        watch.look(step, must=True)
    assert watch.timings["looks"] == looks + 10


def test_quick_looks_are_all_made(make_run):
    run = begun(make_run)
    watch, clock = watch_with_clock(run, seconds_per_look=1e-5)
    with watch.on_duty(0, "test"):
        for step in range(20, 2020, 20):
            clock["now"] += 0.020
            watch.look(step)
    assert watch.timings["looks"] == 100


def test_no_checkpoint_is_written_of_a_bad_state(make_run):
    """The look before a checkpoint is never left out, so that a restart starts from a good state."""
    run = begun(make_run, safety_interval=1000, trajectory_interval=1000, report_interval=1000, checkpoint_interval=10)
    save = run._save
    saved = []

    def remember():
        save()
        step = run.simulation.context.getStepCount()
        saved.append(step)
        if step == 20:
            x = positions_of(run)
            x[3:6] += x[0] + [0.02, 0.0, 0.0] - x[3]
            run.simulation.context.setPositions(x)

    run._save = remember
    with pytest.raises(SafetyStop):
        run.produce()
    assert saved == [10, 20]


def test_names_of_atoms():
    topology = openmm.app.Topology()
    chain = topology.addChain()
    residue = topology.addResidue("ALA", chain, id="7")
    for name in ("N", "CA", "C", "O", "CB"):
        topology.addAtom(name, openmm.app.Element.getBySymbol(name[0]), residue)
    names = AtomNames.of(topology)
    assert names.one(1) == "atom 2 (CA, ALA 7)"
    assert names.some([0, 1, 2, 3]) == "atom 1 (N, ALA 7), atom 2 (CA, ALA 7), atom 3 (C, ALA 7) and 1 more atoms"
    assert names.some(range(5)) == "all 5 atoms"
