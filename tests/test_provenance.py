"""Provenance: what run.json says can be checked, and no reader ever sees half a file."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import mace_md
from mace_md.config import RunConfig
from mace_md.provenance import collect_provenance, sha256_of, versions, write_atomically, write_json


def test_sha256_is_that_of_the_bytes(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_json(path, {"step": 1})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_are_written_as_they_are(tmp_path):
    write_atomically(tmp_path / "file", b"\x00\r\n\xff")
    assert (tmp_path / "file").read_bytes() == b"\x00\r\n\xff"


def test_the_record_is_plain_json(tmp_path):
    config = RunConfig(structure="water.pdb", model="m", box=(1.0, 2.0, 3.0))
    (tmp_path / "water.pdb").write_text("END\n")
    record = collect_provenance(
        config,
        inputs={"structure": tmp_path / "water.pdb"},
        model={"licence": "MIT", "heads": ("a", "b")},
        seed=np.int64(5),
        timings={"total_s": np.float32(0.5)},
        box=np.eye(2),
    )
    write_json(tmp_path / "run.json", record)
    read = json.loads((tmp_path / "run.json").read_text())
    assert read["options"]["box"] == [1.0, 2.0, 3.0] and read["options"]["output"] == "water-run"
    assert read["inputs"]["structure"]["sha256"] == hashlib.sha256(b"END\n").hexdigest()
    assert Path(read["inputs"]["structure"]["path"]).is_absolute()
    assert read["model"] == {"licence": "MIT", "heads": ["a", "b"]}
    assert (read["seed"], read["timings"], read["box"]) == (5, {"total_s": 0.5}, [[1.0, 0.0], [0.0, 1.0]])


def test_versions_name_what_takes_part():
    import torch

    found = versions()
    assert found["mace-md"] == mace_md.__version__
    assert found["torch"] == torch.__version__.split("+")[0]
    assert {"openmm", "numpy"} <= set(found)
