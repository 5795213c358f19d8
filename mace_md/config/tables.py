"""The tables of a run file, which a line of flags cannot hold: [[stage]], [[restraint]] and [[external_force]]."""

from dataclasses import dataclass

from mace_md.errors import UsageError
from mace_md.options.declare import Ramp, option
from mace_md.options.reading import settle

_LENGTHS, _ANGLES = ("kind", ("position", "distance", "rmsd")), ("kind", ("angle", "torsion"))


class _Table:
    is_table = True

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, kw_only=True)
class Stage(_Table):
    """One part of a run. What it does not say is as the options of the run say."""

    name: str = option(help="name, in the log and in the names of its files")
    ensemble: str | None = option(
        None, choices=("nve", "nvt", "npt"), help="statistical ensemble", shown_default="the run's"
    )
    temperature: Ramp | None = option(
        None, unit="K", at_least=0, help="temperature, or a ramp '50 -> 300' over the stage", shown_default="the run's"
    )
    pressure: Ramp | None = option(
        None, unit="bar", help="pressure, or a ramp '1 -> 1000'; only with npt", shown_default="the run's"
    )
    steps: int | None = option(
        None, at_least=0, help="number of steps", shown_default="required; in the last stage, the run's"
    )
    time: float | None = option(
        None, unit="ps", at_least=0, instead_of="steps", help="length, instead of steps", shown_default="-"
    )
    timestep: float | None = option(None, unit="fs", above=0, help="integration time step", shown_default="the run's")
    thermostat: str | None = option(
        None, choices=("langevin", "nose-hoover", "bussi"), help="thermostat", shown_default="the run's"
    )
    friction: float | None = option(None, unit="1/ps", above=0, help="as --friction", shown_default="the run's")
    beads: int | None = option(None, at_least=1, help="as --beads", shown_default="the run's")
    minimize: bool | None = option(
        None, help="minimise the energy first, and draw new velocities",
        shown_default="the run's in the first stage, else no",
    )  # fmt: skip
    restraints: Ramp = option(
        Ramp(1.0, 1.0), at_least=0,
        help="strength of all restraints times this: 0 is off, '1 -> 0' lets them go over the stage",
    )  # fmt: skip
    trajectory: bool | None = option(
        None, help="write trajectory files of this stage", shown_default="yes in the last stage, else no"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name.replace("-", "").replace("_", "").isalnum() or not self.name.isascii():
            raise UsageError(f"name: '{self.name}' becomes part of file names: letters, digits, - and _ only.")


@dataclass(frozen=True, kw_only=True)
class Restraint(_Table):
    """k/2 max(0, |x - target| - flat)^2, in which x is what `kind` says."""

    name: str | None = option(None, help="name, in the log", shown_default="its kind and number", on_restart="free")
    kind: str = option(
        choices=("position", "distance", "angle", "torsion", "rmsd"),
        help="what is held: each atom at its place, a coordinate of two to four groups, or the distance from the start",
    )
    atoms: tuple[str, ...] = option(
        count=(1, 2, 3, 4),
        help="mdtraj selections: one for position and rmsd, two for a distance, three for an angle, four for a "
        "torsion; several atoms in one count as their centre of mass",
    )  # fmt: skip
    k: float | None = option(
        None, unit="kJ/mol/nm^2", at_least=0, only_if=_LENGTHS, fill=1000.0, help="force constant of a length"
    )
    k_angle: float | None = option(
        None, unit="kJ/mol/rad^2", at_least=0, only_if=_ANGLES, fill=100.0, help="force constant of an angle"
    )
    target: float | None = option(
        None, unit="A", at_least=0, only_if=("kind", ("distance", "rmsd")), help="where the length is held",
        shown_default="as at the start",
    )  # fmt: skip
    target_angle: float | None = option(
        None, unit="degree", only_if=_ANGLES, help="where the angle is held", shown_default="as at the start"
    )
    flat: float | None = option(
        None, unit="A", at_least=0, only_if=_LENGTHS, fill=0.0, help="half width around the target without a force"
    )
    flat_angle: float | None = option(
        None, unit="degree", at_least=0, only_if=_ANGLES, fill=0.0, help="half width around the target without a force"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = {"distance": 2, "angle": 3, "torsion": 4}.get(self.kind, 1)
        if len(self.atoms) != needed:
            raise UsageError(f"atoms: {self.kind} needs {needed} selections, got {len(self.atoms)}.")


@dataclass(frozen=True, kw_only=True)
class ExternalForce(_Table):
    """openmm.CustomExternalForce on some atoms."""

    expression: str = option(help="energy of an atom, kJ/mol, as OpenMM writes it: of x, y, z (nm), and the parameters")
    atoms: str = option("all", help="mdtraj selection")
    parameters: dict | None = option(None, help="numbers the expression names, in OpenMM's units", shown_default="none")
