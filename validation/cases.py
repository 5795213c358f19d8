"""The cases of the report: what is simulated at which state points, and which checks are made of it."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mace_md.units import FS_TO_PS
from validation import checks, harmonic, ring_polymer
from validation.checks import Check
from validation.ring_polymer import BeadSamples
from validation.sampling import Ensemble, Samples, build, run, sample
from validation.systems import Matter, from_file, ideal_gas, rare_gas

THERMOSTATS = {"langevin": "Langevin middle", "nose-hoover": "Nosé-Hoover chain", "bussi": "Bussi velocity rescaling"}
BAROSTATS = ("isotropic", "anisotropic", "membrane", "flexible")
COLD, WARM = 40.0, 51.0  # K: their potential energies differ by about two standard deviations
LOW, HIGH = 500.0, 1150.0  # bar: likewise the volumes of 32 atoms
GAS_TEMPERATURE, GAS_PRESSURE = 60.0, 50.0
# By the number of atoms in each and by what is scaled. Of 16 rigid molecules a move of up to 30 % of the volume, as the
# barostat comes to make them, may give a box of no size, which stops the simulation.
GAS_MOLECULES = {(1, "atoms"): 32, (2, "molecules"): 24, (2, "atoms"): 16}
HARMONIC_TEMPERATURE = 0.5  # K: anharmonic terms are below 0.1 % there


@dataclass(frozen=True)
class Case:
    """One row block of the report. `make(store)` returns its checks."""

    name: str
    integrator: str
    matter: str
    make: Callable[["Store"], list[Check]]


@dataclass(frozen=True)
class Store:
    """Samples on disk, so that a report that was interrupted goes on, and two cases can share a simulation.

    length : factor on the number of samples, for tests and trials.
    replica : of all simulations together; each has its own seeds.
    """

    folder: Path
    length: float = 1.0
    replica: int = 0

    def samples(self, matter: Matter, ensemble: Ensemble, *, count: int, every: int, equilibration: int) -> Samples:
        """From disk, or by simulation. The seed follows from the name, so that no two state points share one."""
        point = "-".join(str(value) for name, value in vars(ensemble).items() if name != "seed")
        name = f"{matter.name}-{len(matter.masses)}-{matter.timestep:g}-{point}-{self.length:g}".replace(" ", "_")
        name += f"-{self.replica}"
        found = self._kept(
            name,
            lambda: run(
                matter,
                replace(ensemble, seed=seed_of(name)),
                count=max(20, round(count * self.length)),
                every=every,
                equilibration=max(1, round(equilibration * min(1.0, self.length))),
            ),
        )
        return Samples(**{**found, "num_dof": int(found["num_dof"])})

    def beads(self, name: str, matter: Matter, temperature: float, timestep: float, count: int, **more) -> BeadSamples:
        """The same for rings; `more` goes to `ring_polymer.sample_beads`."""
        name = f"{name}-{self.length:g}-{self.replica}"
        count = max(50, round(count * self.length))
        found = self._kept(
            name,
            lambda: ring_polymer.sample_beads(matter, temperature, timestep, count=count, seed=seed_of(name), **more),
        )
        return BeadSamples(**found)

    def _kept(self, name: str, simulate: Callable[[], Samples | BeadSamples]) -> dict[str, np.ndarray]:
        """The arrays of `name`, from disk, or from `simulate` and to disk."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npz")
            np.savez_compressed(partial, **vars(simulate()))
            partial.replace(path)
        with np.load(path) as file:
            return {name: file[name] for name in file.files}


def seed_of(name: str) -> int:
    """A seed that OpenMM takes (31 bits, not 0), from a name."""
    return zlib.crc32(name.encode()) % (2**31 - 1) + 1


# ------------------------------------------------------------------------------------------------ integrators


def _conserved(matter: Matter, thermostat: str | None, friction: float, timestep: float, picoseconds: float):
    """What the integrator conserves over a stretch of time, for `checks.convergence`."""
    ensemble = Ensemble(thermostat, COLD, friction=friction, seed=12)
    simulation, dynamics = build(matter, ensemble, timestep=timestep)
    every = round(32 / timestep)
    series = sample(simulation, dynamics, count=round(picoseconds / FS_TO_PS / 32), every=every)
    return series.potential + series.on_step if thermostat == "langevin" else series.conserved


def nve_rare_gas(store: Store) -> list[Check]:
    """Verlet: order of the method, and drift."""
    matter = rare_gas()
    order = checks.for_each_step(matter, lambda step: _conserved(matter, None, 1.0, step, 4.0), (8.0, 4.0, 2.0))
    return [order, checks.drift(nve_samples(store), len(matter.masses))[0]]


def nve_samples(store: Store) -> Samples:
    """200 ps at constant energy."""
    return store.samples(rare_gas(), Ensemble(None, COLD), count=1000, every=25, equilibration=1)


def thermostat_rare_gas(store: Store, thermostat: str) -> list[Check]:
    """Order of the method, kinetic energy, equipartition, ensemble.

    Equipartition is tested in the warmer crystal. A thermostat that scales all velocities alike leaves it to the forces
    to move energy from light to heavy atoms, which takes them about 10 ps at 40 K and 4 ps at 51 K.
    """
    matter, points = rare_gas(), thermostat_points(store, thermostat)
    friction = 0.0 if thermostat == "langevin" else 4.0  # without friction the Langevin scheme conserves the energy
    order = checks.for_each_step(
        matter, lambda step: _conserved(matter, thermostat, friction, step, 4.0), (8.0, 4.0, 2.0)
    )
    found = [order]
    if thermostat != "langevin":
        found.append(checks.drift(points[0][1], len(matter.masses))[0])
    for index, (ensemble, samples) in enumerate(points):
        found += checks.kinetic_energy(matter, ensemble, samples, split=index == 1)
    found += checks.equipartition(matter, *points[1])
    return [*found, checks.ensemble_ratio(*points)]


def thermostat_points(store: Store, thermostat: str) -> list[tuple[Ensemble, Samples]]:
    """The rare gas at two temperatures."""
    matter, points = rare_gas(), []
    for temperature in (COLD, WARM):
        ensemble = Ensemble(thermostat, temperature)
        points.append((ensemble, store.samples(matter, ensemble, count=3000, every=10, equilibration=1500)))
    return points


def crystal(store: Store, thermostat: str) -> list[Check]:
    """The harmonic crystal at constant volume."""
    matter = rare_gas(repeats=1)
    ensemble = Ensemble(thermostat, HARMONIC_TEMPERATURE)
    samples = store.samples(matter, ensemble, count=6000, every=10, equilibration=2000)
    return harmonic.classical(harmonic.crystal(matter), samples, HARMONIC_TEMPERATURE, thermostat == "langevin")


# ------------------------------------------------------------------------------------------------ barostats


def barostat(store: Store, kind: str, scaling: str, molecules: bool, thermostat: str = "langevin") -> list[Check]:
    """Kinetic energy; ensembles at two temperatures and at two pressures."""
    matter = rare_gas(molecules=molecules)
    runs = [(point, barostat_samples(store, matter, point)) for point in barostat_points(kind, scaling, thermostat)]
    found = checks.kinetic_energy(matter, *runs[0], split=molecules)
    if molecules:
        found += checks.equipartition(matter, *runs[0])
    return [*found, checks.ensemble_ratio(runs[0], runs[1]), checks.ensemble_ratio(runs[0], runs[2])]


def barostat_points(kind: str, scaling: str, thermostat: str = "langevin") -> list[Ensemble]:
    """A state point, one that is warmer, and one at higher pressure; shapes of boxes need more moves."""
    base = Ensemble(thermostat, COLD, kind, LOW, scaling, barostat_interval=5 if _slow(kind, scaling) else 10)
    return [base, replace(base, temperature=WARM), replace(base, pressure=HIGH)]


def barostat_samples(store: Store, matter: Matter, point: Ensemble) -> Samples:
    """The samples of a state point; more where the box changes its shape slowly or the bath is a global one."""
    slow = _slow(point.barostat, point.scaling)
    return store.samples(matter, point, count=1800 if slow else 1200, every=10, equilibration=2500)


def _slow(kind: str | None, scaling: str) -> bool:
    return kind == "flexible" or (scaling == "molecules" and kind != "isotropic")


def gas(store: Store, kind: str, scaling: str, atoms_each: int) -> list[Check]:
    """The volume of an ideal gas, with the force of a MACE without interaction in place."""
    volumes = gas_samples(store, kind, scaling, atoms_each).volume
    return checks.ideal_gas(volumes, GAS_MOLECULES[atoms_each, scaling], GAS_TEMPERATURE, GAS_PRESSURE)


def gas_samples(store: Store, kind: str, scaling: str, atoms_each: int) -> Samples:
    """An ideal gas under a barostat."""
    matter = ideal_gas(GAS_TEMPERATURE, GAS_PRESSURE, GAS_MOLECULES[atoms_each, scaling], atoms_each)
    ensemble = Ensemble("langevin", GAS_TEMPERATURE, kind, GAS_PRESSURE, scaling, barostat_interval=1)
    count, every, equilibration = 2000, 5, 1000
    if atoms_each > 1 and scaling == "atoms":  # each move stretches the bonds, which take 100 steps to forget it
        ensemble, count, every, equilibration = replace(ensemble, barostat_interval=5), 2000, 25, 4000
    elif atoms_each > 1 and kind != "isotropic":  # its shape is slow to forget
        every = 20
    if kind == "flexible":  # a softer box reaches the edges of OpenMM's reduced form, where its moves cannot be undone
        matter = replace(matter, shape_energy=4 * matter.shape_energy)
    matter = replace(matter, name=f"ideal gas {atoms_each}", whole=scaling == "molecules")
    return store.samples(matter, ensemble, count=count, every=every, equilibration=equilibration)


def crystal_volume(store: Store) -> list[Check]:
    """The volume of a harmonic crystal under the isotropic barostat: mean and width from its own energy curve."""
    temperature, pressure = 2.0, 0.0
    matter = rare_gas(repeats=1)
    ensemble = Ensemble("langevin", temperature, "isotropic", pressure, barostat_interval=2)
    samples = store.samples(matter, ensemble, count=6000, every=5, equilibration=3000)
    lattices = [harmonic.crystal(rare_gas(lattice, repeats=1)) for lattice in np.linspace(0.524, 0.542, 7)]
    mean, width = harmonic.volume_moments(lattices, temperature, pressure)
    ratio = (samples.volume - mean) / width
    return [
        checks.mean_against("crystal, mean volume, from theory's", ratio, 0.0, "widths", 3, True),
        checks.mean_against("crystal, variance of volume", ratio**2, 1.0, "x theory", 3, True),
    ]


# ------------------------------------------------------------------------------------------------ ring polymers


def free_ring(store: Store) -> list[Check]:
    """Free particles."""
    matter = ideal_gas(20.0, GAS_PRESSURE, 8)
    samples = store.beads("rpmd-free", matter, 20.0, 5.0, friction=5.0, count=1000, every=5)
    return ring_polymer.free_particles(matter, 20.0, samples)


def vibrating_ring(store: Store) -> list[Check]:
    """A crystal that is both quantum-mechanical and harmonic."""
    matter = _stiff_crystal()
    samples = store.beads("rpmd-crystal", matter, 800.0, 0.25, friction=50.0, count=1200, every=10)
    return ring_polymer.vibrating(harmonic.crystal(matter), 800.0, samples)


def _stiff_crystal(lattice: float = 0.536) -> Matter:
    """A thousand times as stiff as the rare gas, so that temperatures of quantum effects are far from its melting."""
    matter = rare_gas(lattice, repeats=1)
    matter.model.scale.mul_(1000.0)
    return matter


def ring_gas(store: Store) -> list[Check]:
    """The volume of an ideal gas of two-atom molecules, each atom a ring: centroids of molecules are scaled."""
    count = 24
    samples = store.beads(
        "rpmd-gas", ideal_gas(GAS_TEMPERATURE, GAS_PRESSURE, count, 2), GAS_TEMPERATURE, 5.0, friction=5.0,
        pressure=GAS_PRESSURE, barostat_interval=1, count=1000, every=4, equilibration=200,
    )  # fmt: skip
    return checks.ideal_gas(samples.volume, count, GAS_TEMPERATURE, GAS_PRESSURE)


def ring_crystal_volume(store: Store) -> list[Check]:
    """The volume of a crystal whose zero-point motion is five times its classical energy."""
    temperature, pressure = 200.0, 0.0
    samples = store.beads(
        "rpmd-volume", _stiff_crystal(), temperature, 0.25, friction=50.0, pressure=pressure, barostat_interval=2,
        count=2400, every=10,
    )  # fmt: skip
    lattices = [harmonic.crystal(_stiff_crystal(lattice)) for lattice in np.linspace(0.526, 0.542, 7)]
    return ring_polymer.crystal_volume(lattices, temperature, pressure, samples)


# ------------------------------------------------------------------------------------------------ a published model


def nve_published(store: Store, structure: Path, model: Path) -> list[Check]:
    """Order of the method (from an equilibrated state, in float64) and drift over 20 ps (in float32)."""
    exact = replace(_equilibrated(store, structure, model), options={"dtype": "float64"})
    series = {}
    for step in (0.8, 0.4, 0.2):
        simulation, dynamics = build(exact, Ensemble(None, 300.0, seed=14), timestep=step)
        series[step] = sample(simulation, dynamics, count=round(150 * store.length), every=round(1.6 / step)).conserved
    long = nve_published_samples(store, structure, model)
    return [checks.convergence(series), checks.drift(long, len(exact.masses))[0]]


def nve_published_samples(store: Store, structure: Path, model: Path) -> Samples:
    """20 ps at constant energy, 0.5 fs, float32."""
    matter = _equilibrated(store, structure, model)
    return store.samples(matter, Ensemble(None, 300.0), count=2000, every=20, equilibration=1)


def _equilibrated(store: Store, structure: Path, model: Path) -> Matter:
    matter = from_file(structure, model)
    start = store.samples(matter, Ensemble("langevin", 300.0), count=200, every=20, equilibration=1000)
    return replace(matter, positions=start.positions[-1].astype(float), name=f"{matter.name} equilibrated")


def thermostat_published(store: Store, thermostat: str, structure: Path, model: Path) -> list[Check]:
    """Kinetic energy and equipartition between elements, and between molecules and their inside.

    Velocity Verlet, under velocity rescaling, is given half the time step of the middle schemes: the vibrations of O-H
    bonds are too hot by (omega dt)^2 / 4, 3 % at 0.5 fs.
    """
    matter = replace(_equilibrated(store, structure, model), timestep=0.5 if thermostat == "bussi" else 1.0)
    ensemble, every = Ensemble(thermostat, 300.0), 40 if thermostat == "bussi" else 20
    samples = store.samples(matter, ensemble, count=600, every=every, equilibration=1500)
    found = checks.kinetic_energy(matter, ensemble, samples, split=True)
    return found + checks.equipartition(matter, ensemble, samples)


def ensemble_published(store: Store, structure: Path, model: Path) -> list[Check]:
    """Langevin at two temperatures."""
    matter = replace(_equilibrated(store, structure, model), timestep=1.0)
    runs = []
    for temperature in (300.0, 345.0):
        point = Ensemble("langevin", temperature)
        runs.append((point, store.samples(matter, point, count=3000, every=20, equilibration=5000)))
    return [checks.ensemble_ratio(*runs)]


def barostat_published(store: Store, structure: Path, model: Path) -> list[Check]:
    """Water under the isotropic barostat, whole molecules scaled, at two pressures."""
    matter = from_file(structure, model, timestep=1.0)
    base = Ensemble("langevin", 300.0, "isotropic", 1.0, "molecules", barostat_interval=10)
    runs = []
    for pressure in (1.0, 2000.0):
        point = replace(base, pressure=pressure)
        runs.append((point, store.samples(matter, point, count=3000, every=20, equilibration=5000)))
    return checks.kinetic_energy(matter, *runs[0]) + [checks.ensemble_ratio(*runs)]


# ------------------------------------------------------------------------------------------------ the plan


def plan(published: tuple[Path, Path] | None = None) -> list[Case]:
    """All cases, in the order of the report; `published`: a structure and a model that are not part of the project."""
    solid, mixed = "rare-gas crystal, 32 atoms", "crystal of 16 two-atom molecules"
    cases = [Case("nve", "Verlet (NVE)", solid, nve_rare_gas)]
    for key, name in THERMOSTATS.items():
        cases.append(Case(f"nvt-{key}", name, solid, lambda s, k=key: thermostat_rare_gas(s, k)))
        cases.append(Case(f"crystal-{key}", name, "harmonic crystal, 4 atoms", lambda s, k=key: crystal(s, k)))
    for kind in BAROSTATS:
        cases.append(Case(f"npt-{kind}-atoms", f"{kind} barostat, atoms", solid,
                          lambda s, k=kind: barostat(s, k, "atoms", False)))  # fmt: skip
        cases.append(Case(f"npt-{kind}-molecules", f"{kind} barostat, molecules", mixed,
                          lambda s, k=kind: barostat(s, k, "molecules", True)))  # fmt: skip
        for scaling, atoms_each, words in (("atoms", 1, "32 atoms"), ("molecules", 2, "24 two-atom molecules"),
                                           ("atoms", 2, "16 two-atom molecules")):  # fmt: skip
            name, integrator = f"gas-{kind}-{scaling}-{atoms_each}", f"{kind} barostat, {scaling}"
            cases.append(Case(name, integrator, f"ideal gas, {words}",
                              lambda s, k=kind, c=scaling, n=atoms_each: gas(s, k, c, n)))  # fmt: skip
    cases += [
        Case(f"npt-isotropic-{key}", f"isotropic barostat, atoms, with {THERMOSTATS[key]}", solid,
             lambda s, k=key: barostat(s, "isotropic", "atoms", False, k))
        for key in ("nose-hoover", "bussi")
    ]  # fmt: skip
    cases.append(Case("crystal-volume", "isotropic barostat, atoms", "harmonic crystal, 4 atoms", crystal_volume))
    cases.append(Case("rpmd-free", "ring polymer, 8 beads", "8 free atoms", free_ring))
    cases.append(Case("rpmd-crystal", "ring polymer, 8 beads", "stiff crystal, 4 atoms", vibrating_ring))
    rings = "ring polymer, 8 beads, isotropic barostat"
    cases.append(Case("rpmd-gas", rings, "ideal gas, 24 two-atom molecules", ring_gas))
    cases.append(Case("rpmd-volume", rings, "stiff crystal, 4 atoms", ring_crystal_volume))
    if published is not None:
        cases += _published(*published)
    return cases


def _published(structure: Path, model: Path) -> list[Case]:
    what = f"{structure.stem}, {model.stem}"
    cases = [Case("nve-published", "Verlet (NVE)", what, lambda s: nve_published(s, structure, model))]
    for key, name in THERMOSTATS.items():
        cases.append(
            Case(f"nvt-published-{key}", name, what, lambda s, k=key: thermostat_published(s, k, structure, model))
        )
    cases.append(Case("ensemble-published", THERMOSTATS["langevin"], what,
                      lambda s: ensemble_published(s, structure, model)))  # fmt: skip
    cases.append(Case("npt-published", "isotropic barostat, molecules", what,
                      lambda s: barostat_published(s, structure, model)))  # fmt: skip
    return cases
