"""potential.pt: what is written is what was asked for, is checked, and is read without running it."""

import dataclasses
import functools
import json
import zipfile

import numpy as np
import pytest
import torch
from small_model import cluster, small_model

from mace_md.errors import InputError
from mace_md.model import artifact
from mace_md.model.artifact import is_potential_file, load_potential, read_info
from mace_md.model.potential import make_potential
from mace_md.units import EV_TO_KJ_MOL

export_potential = functools.partial(artifact.export_potential, kernels="reference")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(path, info, model, atomic numbers) of a periodic potential."""
    path = tmp_path_factory.mktemp("artifact") / "potential.pt"
    model, (numbers, _) = small_model(), cluster(11)
    info = export_potential(model, numbers, path, periodic=True, kernels="reference", skin=0.7)
    return path, info, model, numbers


def test_what_is_read_is_what_was_written(exported):
    path, info, _, numbers = exported
    assert read_info(path) == info and is_potential_file(path)
    assert info.atomic_numbers == tuple(numbers) and info.atoms is None and info.periodic
    assert (info.r_max, info.skin, info.dtype, info.kernels) == (3.5, 0.7, "float64", "reference")
    e0 = {1: -10.0, 6: -1000.0, 8: -2000.0}
    assert info.e0_sum == pytest.approx(sum(e0[z] for z in numbers) * EV_TO_KJ_MOL, rel=1e-12)
    assert len(info.model_sha256) == 64 and info.versions["torch"] == torch.__version__.split("+")[0]


def test_loaded_is_the_potential(exported):
    path, info, model, numbers = exported
    module, again = load_potential(path)
    assert again == info and int(module.neighbors.builds) == 0, "the file holds no neighbour list"
    positions = torch.as_tensor(cluster(11, seed=3)[1]) / 10
    box = torch.eye(3, dtype=torch.float64) * 0.6
    expected = make_potential(model, numbers, periodic=True, kernels="reference")[0](positions, box)
    found = module(positions, box)
    assert float(found[0]) == pytest.approx(float(expected[0]), abs=1e-9)
    torch.testing.assert_close(found[1], expected[1], atol=1e-8, rtol=0)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_subset_dtype_and_given_positions(tmp_path, kernels):
    numbers, positions = cluster(9)
    path = tmp_path / "p.pt"
    info = export_potential(
        small_model(),
        numbers,
        path,
        periodic=False,
        atoms=[1, 4],
        dtype="float32",
        positions=positions / 10,
        kernels=kernels,
    )
    assert info.atoms == (1, 4) and info.dtype == "float32"
    forces = load_potential(path)[0](torch.as_tensor(positions / 10))[1]
    assert forces.shape == (9, 3) and set(forces.abs().sum(dim=1).nonzero().flatten().tolist()) <= {1, 4}


@pytest.mark.parametrize("text", ['{"format_version": Infinity}', '{"format_version": []}', "[" * 100000])
def test_damaged_metadata_are_an_error_of_one_line(tmp_path, text):
    path = tmp_path / "p.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p/extra/mace_md.json", text)
    with pytest.raises(InputError, match="metadata are damaged"):
        read_info(path)


def test_nothing_is_overwritten_or_left_behind(tmp_path, monkeypatch):
    path = tmp_path / "p.pt"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_potential(small_model(), [1, 8], path, periodic=False)
    assert path.read_text() == "mine"
    monkeypatch.setattr(artifact, "_TOLERANCE", {"float64": -1.0})
    with pytest.raises(RuntimeError, match="deviates from the eager one.*Nothing was written"):
        export_potential(small_model(), [1, 8], path, periodic=False, overwrite=True)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    export_potential(small_model(), [1, 8], path, periodic=False, overwrite=True)
    assert read_info(path).atomic_numbers == (1, 8)


def test_a_deviating_script_is_caught(tmp_path, monkeypatch):
    """A compiler that gets one number wrong must not get past the check."""
    original = artifact.script_potential

    def wrong(potential):
        potential.kj_mol_per_ev *= 1.0 + 1e-6
        scripted = original(potential)
        potential.kj_mol_per_ev /= 1.0 + 1e-6
        return scripted

    monkeypatch.setattr(artifact, "script_potential", wrong)
    numbers, positions = cluster(8)
    with pytest.raises(RuntimeError, match="scripted potential deviates"):
        export_potential(
            small_model(), numbers, tmp_path / "p.pt", periodic=False, positions=positions / 10, kernels="reference"
        )
    assert not list(tmp_path.iterdir())


def test_reading_runs_nothing_in_the_file(exported, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the file was loaded"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("the file was loaded"))
    assert read_info(exported[0]) == exported[1]


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_potential_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "potential.pt"
    path.write_bytes(content)
    assert not is_potential_file(path)
    for read in (read_info, load_potential):
        with pytest.raises(InputError, match="is not a potential of mace-md") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_other_archives_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_info(tmp_path / "nowhere.pt")
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "other.pt")
    with pytest.raises(InputError, match="is not a potential of mace-md"):
        read_info(tmp_path / "other.pt")


def rewritten(source, target, metadata):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, metadata if name.endswith("mace_md.json") else old.read(name))
    return target


def test_newer_and_damaged_metadata_are_refused(exported, tmp_path):
    values = dataclasses.asdict(exported[1])
    newer = rewritten(exported[0], tmp_path / "a.pt", json.dumps(values | {"format_version": 99}))
    with pytest.raises(InputError, match="has format 99 .*update mace-md"):
        read_info(newer)
    for damaged in ("{", "[]", "{}", '{"format_version": 1}'):
        with pytest.raises(InputError, match="metadata are (damaged|incomplete)"):
            read_info(rewritten(exported[0], tmp_path / "b.pt", damaged))


def test_a_truncated_file_is_refused(exported, tmp_path):
    whole = exported[0].read_bytes()
    path = tmp_path / "p.pt"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not a potential"):
        load_potential(path)


def test_random_check_positions_hold_every_atom_and_some_edges():
    numbers, _ = cluster(43)
    info = export_info(numbers)
    positions, box = artifact._test_positions(info)
    assert positions.shape == (43, 3) and np.linalg.det(box) > 0
    distances = torch.cdist(positions, positions) + torch.eye(43)
    assert 0.08 < float(distances.min()) < 0.35 / 2


def export_info(numbers):
    model = small_model()
    choice = make_potential(model, numbers, periodic=True, kernels="reference")[1]
    return artifact.describe(model, choice, numbers, periodic=True, atoms=None, skin=0.5)


def test_bad_models_are_refused():
    with pytest.raises(InputError, match="is not a model of mace-md"):
        artifact.resolve_model(torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="dtype is 'float32' or 'float64', not 'half'"):
        artifact.resolve_model(small_model(), dtype="half")
    with pytest.raises(InputError, match="head chooses when a model file is loaded"):
        artifact.resolve_model(small_model(), head="pbe")
