"""The zip archive that torch writes: one pickled object tree, and the numbers of its tensors beside it."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

from mace_md.errors import InputError
from mace_md.model.reading.unpickle import Refused, TensorRecord, interpret

MAX_PICKLE_BYTES = 256 * 2**20  # the object tree, without the numbers; those of published models have about 0.3 MB

# What zipfile raises for damaged archives; ValueError is for names that are no text.
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, struct.error, ValueError)


class Archive:
    """The object tree of a torch file, and the numbers of its tensors."""

    def __init__(self, root: Any, folder: str, entries: zipfile.ZipFile):
        self.root, self._folder, self._entries = root, folder, entries

    def tensor(self, record: TensorRecord):
        """The values of `record`: a contiguous torch tensor of its own, on the CPU; raises Refused."""
        import torch

        storage = record.storage
        if not storage.numel or 0 in record.size:
            return torch.zeros(record.size, dtype=getattr(torch, storage.dtype))
        try:
            data = self._entries.read(f"{self._folder}data/{storage.key}")
        except (KeyError, *_DAMAGE) as error:
            raise Refused(f"the numbers of storage {storage.key} cannot be read ({error})") from None
        if len(data) < storage.numel * storage.itemsize:
            raise Refused(f"storage {storage.key} has {len(data)} bytes for {storage.numel} {storage.dtype} numbers")
        # Any byte is a valid number, except that a bool must be 0 or 1.
        as_bytes = storage.dtype == "bool"
        dtype = torch.uint8 if as_bytes else getattr(torch, storage.dtype)
        flat = torch.frombuffer(bytearray(data), dtype=dtype, count=storage.numel)
        values = flat.as_strided(record.size, record.stride, record.offset).clone()
        return values != 0 if as_bytes else values


def read_archive(path: str | Path, content: bytes) -> Archive:
    """The object tree of the torch file `path`, whose bytes are `content`; nothing in it is run.

    Raises InputError, in one line, for whatever is not a zip file of torch with a pickled module made of mace and e3nn.
    """
    path = Path(path)
    try:
        _refuse_other_formats(content)
        entries = zipfile.ZipFile(io.BytesIO(content))
        folder = _check_entries(entries, len(content))
        return Archive(interpret(entries.read(f"{folder}data.pkl")), folder, entries)
    except Refused as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: not a complete model file ({error}). Download or copy it again.") from None


def _refuse_other_formats(content: bytes) -> None:
    head = content[:512].lstrip().lower()
    if not content:
        raise Refused("the file is empty. Download or copy it again.")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise Refused("this is a web page, not a model: the download went wrong. Fetch the file itself.")
    if head.startswith(b"version https://git-lfs"):
        raise Refused("this is a Git LFS pointer, not the model itself. Run `git lfs pull`, or download the file.")
    if content[:14] == b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19":
        raise Refused("written in torch's format from before version 1.6. Load it with torch and save it again.")
    if content[:4] != b"PK\x03\x04":
        raise Refused("not a torch model file, nor one of ours: it starts with neither a zip nor a safetensors header.")


def _check_entries(entries: zipfile.ZipFile, total: int) -> str:
    """The folder inside the archive that holds `data.pkl`, ending in "/"."""
    infos = entries.infolist()
    names = [info.filename for info in infos]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise Refused(
            "a TorchScript archive (a model compiled for another program): its hyper-parameters are lost. "
            "Give the `.model` file it was made from."
        )
    programs = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(programs) != 1:
        raise Refused(f"a zip file, but not one of torch: it holds {len(programs)} files named data.pkl instead of 1.")
    if len(set(names)) != len(names):
        raise Refused("several entries of the archive have the same name; torch writes no such file.")
    # torch stores its entries uncompressed; so no entry can be larger than the file, nor all of them together.
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or sum(i.file_size for i in infos) > total:
        raise Refused("the archive is compressed or its sizes are false; torch writes no such file.")
    folder = programs[0][: -len("data.pkl")]
    if entries.getinfo(programs[0]).file_size > MAX_PICKLE_BYTES:
        raise Refused(f"its object tree is larger than {MAX_PICKLE_BYTES // 2**20} MB; no MACE model is.")
    if f"{folder}byteorder" in names and entries.read(f"{folder}byteorder") != b"little":
        raise Refused("written on a big-endian machine. Load it with torch and save it again on this one.")
    return folder
