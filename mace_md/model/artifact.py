"""`potential.pt`: a potential as a TorchScript file with its metadata inside, written, checked and read.

All that the package knows of TorchScript is here and in md/forces/model.py. The file is not frozen: freezing turns
weights into constants that stay on the device they were frozen on, and OpenMM-Torch freezes its own copy on the right
one. That the frozen form gives the same numbers is part of the check.
"""

import copy
import dataclasses
import datetime
import hashlib
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from mace_md.errors import InputError
from mace_md.model.chosen_atoms import checked_atoms
from mace_md.model.potential import (
    DEFAULT_SKIN,
    MAKING,
    KernelChoice,
    isolated_energy,
    make_potential,
    model_dtype,
)
from mace_md.model.precision import float_dtype
from mace_md.model.reading.checkpoint import load_model
from mace_md.model.settle import settle
from mace_md.ops.energy_forces import load_library
from mace_md.provenance import versions, write_atomically
from mace_md.units import EV_TO_KJ_MOL

FORMAT_VERSION = 1
_METADATA = "mace_md.json"
# Largest deviation of the scripted from the eager potential, relative to the largest force (energy: to the sum of |e|).
_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@dataclass(frozen=True)
class PotentialInfo:
    """What is in a potential. What is not known of its model is "unknown"."""

    atomic_numbers: tuple[int, ...]  # of all particles, in their order
    atoms: tuple[int, ...] | None  # particles the model acts on; None: all
    periodic: bool
    r_max: float  # A
    skin: float  # A
    dtype: str  # that the model computes in
    kernels: str  # "native" or "reference"
    e0_sum: float  # kJ/mol, sum of the isolated atoms: total energy = e0_sum + energy of the potential
    model_name: str = "unknown"
    model_sha256: str = "unknown"
    licence: str = "unknown"
    level_of_theory: str = "unknown"
    dispersion: str = "unknown"
    citation: str = "unknown"
    heads: tuple[str, ...] = ()
    head: str = "unknown"
    charge: float | None = None  # e, total charge that the model was settled for; None: it does not use it
    spin: int | None = None  # multiplicity 2S + 1 that it was settled for
    ops: tuple[str, ...] = ()  # op libraries that have to be loaded before the file
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    created: str = ""
    format_version: int = FORMAT_VERSION


def export_potential(
    model: nn.Module | str | Path,
    atomic_numbers: Sequence[int],
    path: str | Path,
    *,
    periodic: bool,
    atoms: Sequence[int] | None = None,
    skin: float = DEFAULT_SKIN,
    kernels: str = "auto",
    dtype: str | torch.dtype | None = None,
    head: str | None = None,
    charge: float | None = None,
    spin: int | None = None,
    positions: np.ndarray | None = None,
    box: np.ndarray | None = None,
    overwrite: bool = False,
) -> PotentialInfo:
    """Write the potential of `atomic_numbers` to `path`, checked, and return what is in it.

    Parameters
    ----------
    model : a model, or a name or file for `load_model` (then `head` chooses among several).
    atomic_numbers : of all particles of the System, in its order.
    atoms : particles that the model acts on; all by default.
    skin : margin of the neighbour list, A.
    dtype : "float32" or "float64"; the model's own by default.
    charge, spin : total charge (e) and multiplicity 2S + 1 of the model's atoms, for models that use them.
    positions, box : [n, 3] and [3, 3], nm: where to compare the scripted with the eager potential; random by default.
    overwrite : replace a file that is there.

    Nothing is at `path` before the check has passed. Raises InputError for bad input, RuntimeError when the scripted
    potential deviates from the eager one (a defect of ours or of torch: please report it).
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another name or ask to replace it (overwrite)")
    model = resolve_model(model, head=head, dtype=dtype, charge=charge, spin=spin)
    atoms = None if atoms is None else checked_atoms(atoms, len(atomic_numbers))
    potential, choice = make_potential(
        model, atomic_numbers, periodic=periodic, atoms=atoms, skin=skin, kernels=kernels
    )
    info = describe(model, choice, atomic_numbers, periodic=periodic, atoms=atoms, skin=skin)
    content = io.BytesIO()
    extra = {_METADATA: json.dumps(dataclasses.asdict(info), indent=1)}
    torch.jit.save(script_potential(potential), content, _extra_files=extra)
    content.seek(0)
    _compare(potential, load_script(content), info, positions, box)
    write_atomically(path, content.getvalue())
    return info


def read_info(path: str | Path) -> PotentialInfo:
    """The metadata of a potential file; runs nothing that is in it.

    Raises InputError for a file that is missing, not an archive, damaged, not made by mace-md, or made by a newer one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. `mace-md export` writes one")
    content = _metadata_text(path)
    if content is None:
        raise InputError(
            f"{path} is not a potential of mace-md. `mace-md export` makes one from a model and a structure"
        )
    try:
        values = json.loads(content)
        version = int(values["format_version"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: its metadata are damaged ({error}); export it again") from None
    if version > FORMAT_VERSION:
        made_with = values.get("versions")
        made_by = made_with.get("mace-md", "?") if isinstance(made_with, dict) else "?"
        raise InputError(
            f"{path} has format {version} (mace-md {made_by}), this is format {FORMAT_VERSION}: update mace-md"
        )
    known = {field.name for field in dataclasses.fields(PotentialInfo)}
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    try:
        return PotentialInfo(**{key: value for key, value in (values | lists).items() if key in known})
    except TypeError as error:
        raise InputError(f"{path}: its metadata are incomplete ({error}); export it again") from None


def is_potential_file(path: str | Path) -> bool:
    """Whether `path` is a file that `export_potential` wrote, whatever its name."""
    return Path(path).is_file() and _metadata_text(Path(path)) is not None


def load_potential(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[torch.jit.ScriptModule, PotentialInfo]:
    """The potential in a file, ready to call, and what is in it. Raises what `read_info` raises."""
    info = read_info(path)
    _load_ops(info)
    try:
        return load_script(str(path), device), info
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: torch {torch.__version__} cannot load it ({reason}); export it again") from None


def script_potential(potential: nn.Module) -> torch.jit.ScriptModule:
    """The potential as TorchScript, in evaluation mode, with empty neighbour lists if it never ran."""
    with MAKING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        return torch.jit.script(potential.eval())


def load_script(file: str | BinaryIO, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
    """A scripted potential from a file, in evaluation mode. Raises what torch.jit.load raises."""
    with MAKING:
        module = torch.jit.load(file, map_location=device).eval()
    if hasattr(module, "state"):  # the native op grows it, which memory that belongs to a file cannot
        module.state = module.state.clone()
    return module


def describe(
    model: nn.Module,
    choice: KernelChoice,
    atomic_numbers: Sequence[int],
    *,
    periodic: bool,
    atoms: Sequence[int] | None,
    skin: float,
) -> PotentialInfo:
    """The metadata of a potential made from `model`; `model.info` is used where it has one."""
    indices = checked_atoms(atoms, len(atomic_numbers))
    known = getattr(model, "info", None)
    known = dataclasses.asdict(known) if dataclasses.is_dataclass(known) else dict(known or {})
    same = ("licence", "level_of_theory", "dispersion", "citation", "head")
    return PotentialInfo(
        atomic_numbers=tuple(int(z) for z in atomic_numbers),
        atoms=None if atoms is None else tuple(indices),
        periodic=bool(periodic),
        r_max=float(model.r_max),
        skin=float(skin),
        dtype=str(model_dtype(model)).removeprefix("torch."),
        kernels=choice.name,
        e0_sum=isolated_energy(model, [atomic_numbers[i] for i in indices]) * EV_TO_KJ_MOL,
        model_name=str(known.get("name", "unknown")),
        model_sha256=known.get("sha256") or _weights_sha256(model),
        heads=tuple(known.get("heads", ())),
        **getattr(model, "settled", {}),
        ops=("mace_md",) if choice.name == "native" else (),
        versions=versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{key: str(known[key]) for key in same if known.get(key)},
    )


def resolve_model(
    model: nn.Module | str | Path,
    *,
    head: str | None = None,
    dtype: str | torch.dtype | None = None,
    charge: float | None = None,
    spin: int | None = None,
) -> nn.Module:
    """A model in `dtype`, settled for a total charge (e) and multiplicity, from a model, a name or a file.

    The model given is left as it is. Raises InputError, also for a charge or spin that the model cannot use.
    """
    return settle(load_unsettled(model, head=head, dtype=dtype), charge, spin)


def load_unsettled(
    model: nn.Module | str | Path, *, head: str | None = None, dtype: str | torch.dtype | None = None
) -> nn.Module:
    """As `resolve_model`, with the inputs of the model (charge, spin) left open."""
    dtype = float_dtype(dtype)
    if isinstance(model, (list, tuple)) or not isinstance(model, (str, os.PathLike, nn.Module)):
        size = f" of {len(model)}" if isinstance(model, (list, tuple)) else ""
        raise InputError(
            f"model is one model, its name or its file; not a {type(model).__name__}{size}. For several models make a "
            "force or calculator of each; a run compares them with --committee."
        )
    if not isinstance(model, nn.Module):
        return load_model(model, head=head, dtype=dtype)
    if head is not None:
        raise InputError("head chooses when a model file is loaded; this model is loaded already")
    if not hasattr(model, "node_energies"):
        raise InputError(f"{type(model).__name__} is not a model of mace-md; load it with mace_md.load_model(file)")
    if dtype is None or dtype == model_dtype(model):
        return model
    return copy.deepcopy(model).to(dtype)


def _weights_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _metadata_text(path: Path) -> str | None:
    """The JSON inside an archive, None when there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"/extra/{_METADATA}"):
                    return archive.read(name).decode()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, LookupError, RuntimeError):
        return None  # NotImplementedError, of an unknown compression, is a RuntimeError
    return None


def _load_ops(info: PotentialInfo) -> None:
    if info.ops:
        try:
            load_library()
        except InputError as error:
            raise InputError(f"this potential was exported with the native kernels, and here {error}") from None


# -------------------------------------------------------------------------------------------------- the check


def _compare(
    eager: nn.Module,
    loaded: torch.jit.ScriptModule,
    info: PotentialInfo,
    positions: np.ndarray | None,
    box: np.ndarray | None,
) -> None:
    """Eager, scripted and frozen potentials agree, on the first call and after TorchScript has optimised."""
    x, cell = _test_positions(info) if positions is None else (torch.as_tensor(np.array(positions)), box)
    if info.periodic and cell is None:
        raise InputError("a periodic potential is checked with positions and a box; box is missing")
    arguments: list[Any] = [torch.as_tensor(np.array(cell), dtype=torch.float64)] if info.periodic else []
    frozen = torch.jit.freeze(loaded)
    generator = torch.Generator().manual_seed(0)
    for call in range(3):
        moved = x.double() + 1e-3 * call * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        energy, forces = eager(moved, *arguments)
        for name, module in (("scripted", loaded), ("frozen", frozen)):
            _refuse_deviation(name, info, module(moved, *arguments), energy, forces)


def _refuse_deviation(
    name: str, info: PotentialInfo, found: tuple[Tensor, Tensor], energy: Tensor, forces: Tensor
) -> None:
    # Energies are differences of larger numbers; a force of 1 kJ/mol/nm is nothing and an energy of 1 kJ/mol is little.
    scales = (max(1.0, float(energy.abs())), max(1.0, float(forces.abs().max()) if forces.numel() else 0.0))
    off = (float((found[0].detach() - energy).abs()) / scales[0], float((found[1] - forces).abs().max()) / scales[1])
    if not max(off) <= _TOLERANCE[info.dtype]:  # also for NaN
        raise RuntimeError(
            f"the {name} potential deviates from the eager one: energy by {off[0]:.1e}, forces by {off[1]:.1e} "
            f"(relative; limit {_TOLERANCE[info.dtype]:.0e}). Nothing was written"
        )


def _test_positions(info: PotentialInfo) -> tuple[Tensor, np.ndarray | None]:
    """Positions [n, 3], nm, and a box: clusters of eight atoms on jittered cubes, far from each other, so that the
    check costs little however many atoms there are."""
    n = len(info.atomic_numbers)
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[[0.0, 0.16]] * 3, indexing="ij"), -1).reshape(-1, 3)
    n_clusters = -(-n // 8)
    side = int(np.ceil(n_clusters ** (1 / 3))) or 1
    spacing = 0.1 * info.r_max + 0.4
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n_clusters]
    positions = (grid[:, None] * spacing + corners).reshape(-1, 3)[:n] + rng.uniform(-0.025, 0.025, (n, 3))
    # One cluster alone sees its own images in the box.
    return torch.as_tensor(positions), np.eye(3) * (spacing * side if side > 1 else 0.45) if info.periodic else None
