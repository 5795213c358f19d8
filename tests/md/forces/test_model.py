"""The two back ends, the platforms, the neighbour list's state in a Context, files, and openmm-ml."""

import copy
import functools
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from small_model import cluster, small_model

from mace_md.errors import InputError
from mace_md.md.forces import model as force_module
from mace_md.md.forces.model import PythonPotential, refuse_serialization, require_openmmtorch, torch_forces
from mace_md.model.artifact import export_potential
from mace_md.model.potential import make_potential
from mace_md.ops.energy_forces import LIBRARY

KERNELS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not LIBRARY.exists(), reason="not built"))]
BOX = np.array([[0.52, 0.0, 0.0], [0.12, 0.50, 0.0], [-0.1, 0.15, 0.55]])  # nm, reduced as OpenMM wants it
make_force = functools.partial(force_module.make_force, kernels="reference")
# kJ/mol/nm; the native kernels run in float32, of which forces of 60 kJ/mol/nm and their sums leave less than this
TOLERANCE = {"reference": 1e-6, "native": 5e-3}
N_ATOMS = 12
NUMBERS, POSITIONS = cluster(N_ATOMS)
POSITIONS = POSITIONS / 10  # nm


def model_for(kernels: str):
    return small_model(torch.float32 if kernels == "native" else torch.float64)


def system_of(force: openmm.Force, periodic: bool = True, n_particles: int = N_ATOMS) -> openmm.System:
    system = openmm.System()
    for _ in range(n_particles):
        system.addParticle(12.0)
    if periodic:
        system.setDefaultPeriodicBoxVectors(*BOX)
    system.addForce(force)
    return system


def context_of(system, platform="Reference", positions=POSITIONS, integrator=None) -> openmm.Context:
    integrator = integrator or openmm.VerletIntegrator(0.0002)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context


def energy_and_forces(context, groups=-1):
    state = context.getState(energy=True, forces=True, groups=groups)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole), forces


def direct(positions, box=BOX, numbers=NUMBERS, periodic=True, **options):
    """Energy and forces without OpenMM, from a potential that has no past."""
    potential = make_potential(small_model(), numbers, periodic=periodic, kernels="reference", **options)[0]
    energy, forces = potential(torch.as_tensor(np.array(positions)), torch.as_tensor(np.array(box)))
    return energy.item(), forces.numpy()


@pytest.mark.parametrize("backend", ["torchforce", "python"])
@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("kernels", KERNELS)
def test_back_ends_and_platforms_give_the_energy_and_forces_of_the_potential(backend, platform, periodic, kernels):
    force = make_force(NUMBERS, model_for(kernels), periodic=periodic, backend=backend, kernels=kernels)
    assert force.usesPeriodicBoundaryConditions() == periodic and force.getName() == "MACE"
    context = context_of(system_of(force, periodic), platform)
    for moved in (0.0, 0.01, 0.03):  # the third call is past TorchScript's optimisation
        positions = POSITIONS + moved * np.sin(np.arange(36).reshape(12, 3))
        context.setPositions(positions)
        energy, forces = energy_and_forces(context)
        expected = direct(positions, periodic=periodic)
        assert energy == pytest.approx(expected[0], abs=TOLERANCE[kernels])
        np.testing.assert_allclose(forces, expected[1], atol=TOLERANCE[kernels])


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_ml_region_in_both_back_ends(kernels):
    atoms = [8, 1, 5, 4]
    expected = direct(POSITIONS[atoms], numbers=[NUMBERS[i] for i in atoms])
    for backend in ("torchforce", "python"):
        force = make_force(
            NUMBERS,
            small_model(),
            periodic=True,
            atoms=atoms,
            backend=backend,
            kernels=kernels,
            force_group=3,
            name="x",
        )
        assert (force.getForceGroup(), force.getName()) == (3, "x")
        context = context_of(system_of(force))
        energy, forces = energy_and_forces(context, groups={3})
        assert energy == pytest.approx(expected[0], abs=TOLERANCE[kernels])
        np.testing.assert_allclose(forces[atoms], expected[1], atol=TOLERANCE[kernels])
        assert not forces[[i for i in range(N_ATOMS) if i not in atoms]].any()


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_list_lives_in_the_context_and_contexts_do_not_share_it(kernels):
    """Two Contexts of one System, atoms approaching from 1.30 to 0.92 of a cutoff: each sees what it should."""
    model = model_for(kernels)
    r_max = model.r_max / 10
    system = system_of(make_force([6, 6], model, periodic=False, skin=0.5, kernels=kernels), False, n_particles=2)
    near, far = context_of(system, positions=np.zeros((2, 3))), context_of(system, positions=np.zeros((2, 3)))
    alone = direct([[0, 0, 0], [9, 0, 0]], numbers=[6, 6], periodic=False)[0]
    for fraction in np.linspace(1.30, 0.92, 20):
        near.setPositions([[0, 0, 0], [fraction * r_max, 0, 0]])
        far.setPositions([[0, 0, 0], [0, 2 * r_max, 0]])
        expected = direct([[0, 0, 0], [fraction * r_max, 0, 0]], numbers=[6, 6], periodic=False)
        energy, forces = energy_and_forces(near)
        assert energy == pytest.approx(expected[0], abs=TOLERANCE[kernels])
        np.testing.assert_allclose(forces, expected[1], atol=TOLERANCE[kernels])
        assert energy_and_forces(far)[0] == pytest.approx(alone, abs=TOLERANCE[kernels])
    assert abs(expected[0] - alone) > 1e-6, "the last point is inside the cutoff"


@pytest.mark.parametrize("backend", ["torchforce", "python"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_dynamics_with_a_barostat_never_sees_a_stale_list(backend, kernels):
    force = make_force(NUMBERS, model_for(kernels), periodic=True, backend=backend, skin=0.3, kernels=kernels)
    system = system_of(force)
    barostat = openmm.MonteCarloAnisotropicBarostat(openmm.Vec3(5e3, 5e3, 5e3), 300, True, True, True, 2)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.001)
    integrator.setRandomNumberSeed(2)
    context = context_of(system, integrator=integrator)
    volumes = set()
    for _ in range(15):
        integrator.step(4)
        state = context.getState(positions=True, enforcePeriodicBox=True)  # wrapped, the Context's own are not
        box = state.getPeriodicBoxVectors(asNumpy=True)._value
        volumes.add(round(np.linalg.det(box), 9))
        energy, forces = energy_and_forces(context)
        expected = direct(state.getPositions(asNumpy=True)._value, box)
        assert energy == pytest.approx(expected[0], abs=TOLERANCE[kernels])
        np.testing.assert_allclose(forces, expected[1], atol=TOLERANCE[kernels])
    assert len(volumes) > 3, "the barostat changed the box"


def test_total_energy_is_conserved():
    """The energy of Verlet oscillates by O(dt^2): halving the step quarters it."""
    spreads = []
    for dt, steps in ((0.001, 40), (0.0005, 80)):
        system = system_of(make_force(NUMBERS, small_model(), periodic=True))
        context = context_of(system, integrator=openmm.VerletIntegrator(dt))
        context.setVelocitiesToTemperature(600, 1)
        totals = []
        for _ in range(steps):
            context.getIntegrator().step(1)
            state = context.getState(energy=True)
            totals.append((state.getKineticEnergy() + state.getPotentialEnergy())._value)
        spreads.append(np.ptp(totals))
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.4)


def test_a_potential_file_makes_the_same_force(tmp_path):
    path = tmp_path / "potential.pt"
    export_potential(small_model(), NUMBERS, path, periodic=True, kernels="reference")
    before = set(os.listdir(tmp_path))
    for backend in ("torchforce", "python"):
        context = context_of(system_of(make_force(NUMBERS, path, periodic=True, backend=backend)))
        energy, forces = energy_and_forces(context)
        expected = direct(POSITIONS)
        assert energy == pytest.approx(expected[0], abs=1e-6)
        np.testing.assert_allclose(forces, expected[1], atol=TOLERANCE["reference"])
    assert set(os.listdir(tmp_path)) == before
    path.unlink()
    energy_and_forces(context_of(system_of(make_force(NUMBERS, small_model(), periodic=True))))

    other = [8 if NUMBERS[3] != 8 else 1, *NUMBERS[1:]]
    export_potential(small_model(), NUMBERS, path, periodic=True, atoms=[1, 2], kernels="reference")
    make_force(other, path, periodic=True)  # the atom that differs is outside its region
    export_potential(small_model(), NUMBERS, path, periodic=True, kernels="reference", overwrite=True)
    swapped = [NUMBERS[0], 14, *NUMBERS[2:]]
    for wrong, match in (
        ({"kernels": "native"}, "exported with kernels 'reference'"),
        ({"topology": NUMBERS[:-1]}, "made for 12 particles, this system has 11"),
        ({"topology": swapped}, "at atom 1 .counted from 0., this system has 14 there"),
        ({"periodic": False}, "made for a periodic box, this system has no periodic box"),
        ({"dtype": "float32"}, "exported with dtype 'float64', which is fixed"),
    ):
        with pytest.raises(InputError, match=match):
            make_force(**({"topology": NUMBERS, "model": path, "periodic": True} | wrong))


def test_a_topology_says_elements_and_periodicity():
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for z in NUMBERS:
        topology.addAtom("A", app.Element.getByAtomicNumber(z), residue)
    assert not make_force(topology, small_model()).usesPeriodicBoundaryConditions()
    topology.setPeriodicBoxVectors([openmm.Vec3(*row) for row in BOX] * unit.nanometer)
    force = make_force(topology, small_model())
    assert force.usesPeriodicBoundaryConditions()
    assert energy_and_forces(context_of(system_of(force)))[0] == pytest.approx(direct(POSITIONS)[0], abs=1e-8)
    topology.addAtom("M", None, residue)
    with pytest.raises(InputError, match="atom 12 .M of X. has no element"):
        make_force(topology, small_model())
    make_force(topology, small_model(), atoms=range(12))


def test_wrong_options_are_refused(monkeypatch):
    with pytest.raises(InputError, match="backend is 'torchforce' or 'python', not 'fast'"):
        make_force(NUMBERS, small_model(), periodic=True, backend="fast")
    with pytest.raises(InputError, match="give periodic=True or False"):
        make_force(NUMBERS, small_model())
    with pytest.raises(InputError, match="does not know Si"):
        make_force([14], small_model(), periodic=True)
    monkeypatch.setattr(torch, "__version__", "2.13.1+cpu")
    with pytest.raises(InputError, match=r"torch 2.13.1\+cpu is too new .* pip install .*acellera-openmmtorch-cpu"):
        require_openmmtorch()
    monkeypatch.setattr(torch, "__version__", "2.12.1+cu130")
    require_openmmtorch()
    monkeypatch.setattr(force_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed. pip install"):
        make_force(NUMBERS, small_model(), periodic=True)
    make_force(NUMBERS, small_model(), periodic=True, backend="python")  # needs no plug-in


def test_errors_in_a_step_reach_the_caller():
    for backend in ("torchforce", "python"):
        context = context_of(
            system_of(make_force(NUMBERS, small_model(), periodic=True, backend=backend, kernels="reference"))
        )
        broken = POSITIONS.copy()
        broken[5, 0] = np.nan
        context.setPositions(broken)
        with pytest.raises(Exception, match="position of atom 5 is not a usable number"):
            energy_and_forces(context)


def test_systems_with_a_torch_force_are_not_copied_and_others_are():
    system = system_of(make_force(NUMBERS, small_model(), periodic=True))
    assert torch_forces(system) == [0]
    with pytest.raises(InputError, match="is a TorchForce: .*would crash.*backend='python'"):
        refuse_serialization(system)
    hidden = openmm.CustomCVForce("2*a")
    hidden.addCollectiveVariable("a", make_force(NUMBERS, small_model(), periodic=True))
    with pytest.raises(InputError):
        refuse_serialization(system_of(hidden))

    system = system_of(make_force(NUMBERS, small_model(), periodic=True, backend="python"))
    refuse_serialization(system)
    expected = direct(POSITIONS)[0]
    for again in (openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system)), copy.deepcopy(system)):
        assert energy_and_forces(context_of(again))[0] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_pickled_potential_is_the_potential(kernels):
    potential = make_potential(model_for(kernels), NUMBERS, periodic=True, kernels=kernels)[0]
    again = pickle.loads(pickle.dumps(PythonPotential(potential, True, "cpu")))
    context = context_of(system_of(make_force(NUMBERS, small_model(), periodic=True)))
    state = context.getState(positions=True)
    energy, forces = again(state)
    assert energy == pytest.approx(direct(POSITIONS)[0], abs=TOLERANCE[kernels])
    np.testing.assert_allclose(forces, direct(POSITIONS)[1], atol=TOLERANCE[kernels])


# ------------------------------------------------------------------------------------------------ openmm-ml

openmmml = pytest.importorskip("openmmml")


@pytest.fixture
def registered():
    """The entry point, also in a checkout whose metadata are not installed."""
    from mace_md.hosts.openmmml import MaceMDPotentialImplFactory

    openmmml.MLPotential.registerImplFactory("mace-md", MaceMDPotentialImplFactory())
    return openmmml.MLPotential


def two_molecules(periodic):
    """(topology, MM system): C-O-H chains of three, bonded by springs, with charges and exclusions."""
    topology = app.Topology()
    chain = topology.addChain()
    if periodic:
        topology.setPeriodicBoxVectors(
            [openmm.Vec3(2, 0, 0), openmm.Vec3(0, 2, 0), openmm.Vec3(0, 0, 2)] * unit.nanometer
        )
    system = openmm.System()
    bonds, nonbonded = openmm.HarmonicBondForce(), openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(nonbonded.CutoffPeriodic if periodic else nonbonded.NoCutoff)
    nonbonded.setCutoffDistance(0.9)
    nonbonded.setUseDispersionCorrection(False)  # it does not add up by pairs
    for _ in range(2):
        residue = topology.addResidue("COH", chain)
        atoms = [topology.addAtom(s, app.Element.getBySymbol(s), residue) for s in "COH"]
        for atom, charge in zip(atoms, (0.1, -0.5, 0.4), strict=True):
            system.addParticle(atom.element.mass)
            nonbonded.addParticle(charge, 0.2, 0.3)
        for a, b in ((0, 1), (1, 2)):
            topology.addBond(atoms[a], atoms[b])
            bonds.addBond(atoms[a].index, atoms[b].index, 0.12, 3e4)
    nonbonded.createExceptionsFromBonds([(0, 1), (1, 2), (3, 4), (4, 5)], 0.5, 0.5)
    system.addForce(bonds)
    system.addForce(nonbonded)
    if periodic:
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    return topology, system


MOLECULES = np.array(
    [[0.0, 0, 0], [0.12, 0.01, 0], [0.16, 0.09, 0.01], [0.3, 0.3, 0], [0.42, 0.3, 0.02], [0.46, 0.38, 0]]
)


def test_openmm_ml_makes_a_whole_system(registered):
    topology, _ = two_molecules(True)
    system = registered("mace-md", modelPath=small_model()).createSystem(
        topology, precision="double", kernels="reference"
    )
    energy, forces = energy_and_forces(context_of(system, positions=MOLECULES))
    expected = direct(MOLECULES, np.eye(3) * 2, [6, 8, 1] * 2)
    assert energy == pytest.approx(expected[0], abs=1e-6)
    np.testing.assert_allclose(forces, expected[1], atol=TOLERANCE["reference"])


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("backend", ["python", "torchforce"])
def test_openmm_ml_mixes_ml_and_mm(registered, periodic, backend):
    """E(mixed) = E(MM) - E(MM inside the region) + E(ML), and the same for the forces."""
    topology, mm = two_molecules(periodic)
    region = [0, 1, 2]
    potential = registered("mace-md", modelPath=small_model())
    mixed = potential.createMixedSystem(topology, mm, region, backend=backend, kernels="reference")
    box = np.eye(3) * 2

    inside = copy.deepcopy(mm)  # the MM energy of the region alone: everything else switched off
    for index in range(inside.getForce(0).getNumBonds()):
        a, b, length, k = inside.getForce(0).getBondParameters(index)
        inside.getForce(0).setBondParameters(index, a, b, length, k if a < 3 else 0)
    for atom in range(3, 6):
        inside.getForce(1).setParticleParameters(atom, 0, 0.2, 0)
    for index in range(inside.getForce(1).getNumExceptions()):
        a, b, q, sigma, epsilon = inside.getForce(1).getExceptionParameters(index)
        if a >= 3:
            inside.getForce(1).setExceptionParameters(index, a, b, 0, sigma, 0)
    total, mm_forces = energy_and_forces(context_of(mm, positions=MOLECULES))
    mm_region, mm_region_forces = energy_and_forces(context_of(inside, positions=MOLECULES))
    ml, ml_forces = direct(MOLECULES[region], box, [6, 8, 1], periodic)
    energy, forces = energy_and_forces(context_of(mixed, positions=MOLECULES))
    assert energy == pytest.approx(total - mm_region + ml, abs=1e-6)
    expected = mm_forces - mm_region_forces
    expected[region] += ml_forces
    np.testing.assert_allclose(forces, expected, atol=1e-5)


def test_openmm_ml_interpolates(registered):
    topology, mm = two_molecules(False)
    potential = registered("mace-md", modelPath=small_model())
    interpolated = potential.createMixedSystem(topology, mm, [0, 1, 2], interpolate=True, kernels="reference")
    context = context_of(interpolated, positions=MOLECULES)
    energies = []
    for fraction in (0.0, 0.5, 1.0):
        context.setParameter("lambda_interpolate", fraction)
        energies.append(energy_and_forces(context)[0])
    mixed = potential.createMixedSystem(topology, mm, [0, 1, 2], kernels="reference")
    assert energies[0] == pytest.approx(energy_and_forces(context_of(mm, positions=MOLECULES))[0], abs=1e-6)
    assert energies[2] == pytest.approx(energy_and_forces(context_of(mixed, positions=MOLECULES))[0], abs=1e-6)
    assert energies[1] == pytest.approx((energies[0] + energies[2]) / 2, abs=1e-6)


def test_openmm_ml_arguments_are_checked(registered):
    topology, _ = two_molecules(False)
    potential = registered("mace-md", modelPath=small_model())
    with pytest.raises(InputError, match="unknown argument precison"):
        potential.createSystem(topology, precison="single")
    with pytest.raises(InputError, match="precision is 'single' or 'double', not 'half'"):
        potential.createSystem(topology, precision="half")
    with pytest.raises(InputError, match="needs modelPath"):
        registered("mace-md")
    with pytest.raises(InputError, match="has no argument model"):
        registered("mace-md", model="x")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("backend", ["torchforce", "python"])
def test_forces_made_in_four_threads_are_those_made_one_after_the_other(backend, kernels):
    """The first use of a model folds, packs and scripts it, which torch does not do in two threads at once."""
    model = model_for(kernels)

    def forces(_) -> np.ndarray:
        force = make_force(NUMBERS, model, periodic=True, backend=backend, kernels=kernels)
        return energy_and_forces(context_of(system_of(force)))[1]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(forces, range(4)))
    expected = forces(0)
    assert np.abs(expected).max() > 1.0
    assert all(np.array_equal(one, expected) for one in found)
