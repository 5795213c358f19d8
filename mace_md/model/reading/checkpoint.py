"""Models from files and to files: published names, mace-torch's `.model`, and our own `.mace`.

Our own format is safetensors with one JSON text, `mace_md`, in its header: format version, hyper-parameters, E0s, where
the model comes from. It holds numbers and text only; nothing in it can run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from mace_md.errors import InputError
from mace_md.model.build import restore_model, select_head
from mace_md.model.descriptors import PREFIX, DescriptorStatistics
from mace_md.model.hyperparameters import ModelConfig
from mace_md.model.mace import MACE
from mace_md.model.precision import float_dtype
from mace_md.model.reading.archive import Archive, read_archive
from mace_md.model.reading.mace_torch import LARGEST_ELL, foreign_class, read_mace_torch
from mace_md.model.reading.unpickle import Refused
from mace_md.model.reading.zoo import PublishedModel, fetch, find_model, identify

FORMAT_VERSION = 1
_KEY = "mace_md"  # of the JSON text in the safetensors header
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
# What numbers, names and shapes that make no sense raise, wherever they are first used.
_DAMAGE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError, RecursionError)
_log = logging.getLogger("mace_md")


@dataclass(frozen=True)
class ModelInfo:
    """Where a loaded model comes from; what is not known is "unknown"."""

    name: str  # published name, or the name of the file
    path: str
    sha256: str  # of the file it was first read from: a `.mace` remembers its source
    licence: str = "unknown"
    level_of_theory: str = "unknown"
    dispersion: str = "unknown"  # whether the training data include it
    citation: str = "unknown"
    heads: tuple[str, ...] = ("Default",)  # all heads of the file
    head: str = "Default"  # the one that was taken
    dtype: str = "float64"  # of the weights in the file


def load_model(
    name_or_path: str | Path,
    head: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    *,
    announce: bool = True,
) -> MACE:
    """The model that a name or a file stands for, with one head and its `ModelInfo` as `.info`.

    Parameters
    ----------
    name_or_path : a name of `mace-md models list` (fetched when it is not in the cache), a mace-torch `.model` file
        (read without running anything in it), or our own `.mace` file.
    head : needed when the file has several.
    dtype : "float32", "float64", or torch's or numpy's; None keeps the file's.
    announce : write the licence of a published model to the log.

    Raises InputError, in one line, for a file that cannot be read, an unknown block, or a head that is not there.
    """
    dtype = float_dtype(dtype)
    path, published = _find(name_or_path)
    config, state, info = _read_model(path)
    statistics = {name: state.pop(name) for name in list(state) if name.startswith(PREFIX)}
    published = published or identify(info.sha256)
    if published is not None:
        if announce:
            _log.info("model %s: %s", published.name, published.licence_line())
        info = replace(info, **published.facts())
    _refuse_broken_weights(path, state)
    head = _choose_head(path, config, head)
    try:
        model = restore_model(config, state, dtype or getattr(torch, info.dtype))
        model = select_head(model, head).to(device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: its hyper-parameters make no model ({_first_line(error)})") from None
    # Plain data beside the module: not a parameter or buffer, and of no use to TorchScript.
    model.info = replace(info, head=head)
    try:
        model.descriptor_statistics = (
            DescriptorStatistics.from_tensors(statistics, len(config.atomic_numbers), config.num_channels)
            if statistics
            else None
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return model


def save_model(model: MACE, path: str | Path, provenance: dict | None = None, overwrite: bool = False) -> Path:
    """Write `model` to our own file format, in one piece or not at all; returns the path.

    `provenance` (plain data) is kept as it is: how the model was trained. Raises InputError when the file exists,
    unless `overwrite`, and OSError when it cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path}: the file exists. Choose another name, or remove it first.")
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    energies = state.pop("atomic_energies")
    statistics = getattr(model, "descriptor_statistics", None)
    if statistics is not None:
        state |= statistics.tensors()
    info = getattr(model, "info", None) or ModelInfo(path.stem, str(path), "unknown", heads=model.config.heads)
    header = {
        "format_version": FORMAT_VERSION,
        "config": model.config.to_dict(),
        "atomic_energies": energies.tolist(),  # eV, [n_heads][n_species]
        "info": asdict(replace(info, dtype=str(model.embedding.dtype).removeprefix("torch."))),
        "provenance": provenance or {},
    }
    _write_atomically(path, save(state, metadata={_KEY: json.dumps(header)}))
    return path


def describe_model(path: str | Path) -> tuple[ModelConfig, ModelInfo, dict]:
    """Hyper-parameters, origin and training provenance of a model file, with all its heads; raises InputError."""
    path = Path(path).expanduser()
    config, _, info = _read_model(path)
    published = identify(info.sha256)
    info = replace(info, **published.facts()) if published else info
    content = _read(path)
    return config, info, _header(path, content).get("provenance", {}) if _is_own(content) else {}


# --- finding and reading ---


def _find(name_or_path: str | Path) -> tuple[Path, PublishedModel | None]:
    """The file that a name or path stands for; a file wins over a published name."""
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path, None
    looks_like_path = path.suffix in (".model", ".mace", ".pt", ".pth") or len(path.parts) > 1
    if isinstance(name_or_path, Path) or looks_like_path:
        raise InputError(f"{path}: no such file")
    published = find_model(str(name_or_path))
    return fetch(published), published


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; give the model file inside it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _is_own(content: bytes) -> bool:
    """Whether it looks like safetensors: the length of a JSON text, then the text."""
    return content[8:9] == b"{"


def _read_model(path: Path) -> tuple[ModelConfig, dict[str, Tensor], ModelInfo]:
    content = _read(path)
    return _read_own(path, content) if _is_own(content) else _read_foreign(path, content)


def _read_foreign(path: Path, content: bytes) -> tuple[ModelConfig, dict[str, Tensor], ModelInfo]:
    archive = read_archive(path, content)
    config, state, dtype = _interpret_foreign(path, archive)
    fork = foreign_class(archive)
    if fork is not None:
        _log.info(
            "note: %s: its class is %s, read as mace-torch's of that name; a fork may mean another model", path, fork
        )
    if dtype not in _DTYPES.values():
        raise InputError(f"{path}: its weights are {dtype}; only float32 and float64 are known here")
    name = str(dtype).removeprefix("torch.")
    return config, state, ModelInfo(path.stem, str(path), _sha256(content), heads=config.heads, dtype=name)


def _interpret_foreign(path: Path, archive: Archive) -> tuple[ModelConfig, dict[str, Tensor], torch.dtype]:
    try:
        return read_mace_torch(archive)
    except (Refused, InputError) as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: its blocks are damaged ({_first_line(error)})") from error


def _read_own(path: Path, content: bytes) -> tuple[ModelConfig, dict[str, Tensor], ModelInfo]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = _header(path, content)
    try:
        state = load(content)
        config = ModelConfig.from_dict(header["config"])
        energies = torch.tensor(header["atomic_energies"], dtype=torch.float64)
        values = {key: tuple(value) if type(value) is list else value for key, value in header["info"].items()}
        info = replace(ModelInfo(**values), path=str(path), heads=config.heads)
        if info.sha256 == "unknown":  # made here: this is the first file it is read from
            info = replace(info, sha256=_sha256(content))
        _refuse_impossible_products(config, state)
    except SafetensorError as error:
        raise InputError(f"{path}: not a complete model file ({error}). Copy it again.") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: its header is damaged ({_first_line(error)})") from None
    if energies.shape != (len(config.heads), len(config.atomic_numbers)):
        raise InputError(f"{path}: E0s of shape {list(energies.shape)} do not fit its heads and elements")
    if any(type(value) is not str for key, value in asdict(info).items() if key != "heads"):
        raise InputError(f"{path}: its header is damaged (what it says of its origin is no text)")
    if info.dtype not in _DTYPES:
        raise InputError(f"{path}: its header is damaged (dtype {info.dtype!r})")
    return config, state | {"atomic_energies": energies}, info


def _header(path: Path, content: bytes) -> dict:
    """The JSON text in the header of one of our files."""
    length = int.from_bytes(content[:8], "little")
    try:
        text = json.loads(content[8 : 8 + length])["__metadata__"][_KEY]
        header = json.loads(text)
        version = header["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: a safetensors file, but not one that mace-md wrote (no readable header)") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version}; this mace-md reads {FORMAT_VERSION}. Update mace-md.")
    return header


def _refuse_impossible_products(config: ModelConfig, state: dict[str, Tensor]) -> None:
    """Sizes that cannot be, before memory is asked for; indices that only the first evaluation would stumble over."""
    held = sum(tensor.numel() for tensor in state.values())
    network = [config.num_bessel, *config.radial_MLP]
    needed = [n * m for n, m in pairwise(network)] + [
        config.num_channels * max(config.MLP_channels, config.edge_channels or 1) * len(config.heads),
        config.num_channels * (config.max_L + 1),
    ]
    if max(needed) > held:
        raise InputError(f"weights do not fit the hyper-parameters: {max(needed)} of them are needed, {held} are there")
    if config.max_ell > LARGEST_ELL or state["embedding"].shape != (len(config.atomic_numbers), config.num_channels):
        raise InputError("weights do not fit the hyper-parameters: embedding, or max_ell")
    n_components = (config.max_ell + 1) ** 2
    for layer in range(config.num_interactions):
        factors = state[f"products.{layer}.contraction.factors"]
        sizes = state[f"products.{layer}.contraction.term_sizes"]
        in_range = factors.numel() and 0 <= int(factors.min()) and int(factors.max()) <= n_components
        if not in_range or int(sizes.min()) < 0 or int(sizes.sum()) != factors.shape[1]:
            raise InputError(f"the product basis of layer {layer} is damaged")


def _refuse_broken_weights(path: Path, state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{path}: {name} holds numbers that are not finite; this model was not saved in good order"
            )


def _choose_head(path: Path, config: ModelConfig, head: str | None) -> str:
    heads = config.heads
    if head is None and len(heads) > 1:
        raise InputError(f"{path}: the model has several heads; choose one of them with head: {', '.join(heads)}")
    if head is not None and head not in heads:
        raise InputError(f"{path}: no head {head!r}; its heads: {', '.join(heads)}")
    return head or heads[0]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}".split("\n")[0]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_atomically(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
