"""Packed models on disk: the same numbers, whole files only, a bounded folder, a name for everything that matters."""

import os

import pytest
import torch
from kinds import make_model

from mace_md.model.fast import cache
from mace_md.model.fast.cache import cached_pack, key_of
from mace_md.model.fast.folded import fold
from mace_md.model.fast.packing import pack

OPTIONS = {"dtype": torch.float32, "skin": 0.5}


@pytest.fixture
def folded():
    return fold(make_model("vectors"))


def test_the_second_time_nothing_is_made(folded, tmp_path, monkeypatch):
    first = cached_pack(folded, tmp_path / "new" / "folder", **OPTIONS)
    assert torch.equal(first, pack(folded, **OPTIONS))
    monkeypatch.setattr(cache, "pack", None)
    assert torch.equal(cached_pack(folded, tmp_path / "new" / "folder", **OPTIONS), first)


def test_everything_that_matters_has_a_name_of_its_own(folded):
    names = {key_of(folded, OPTIONS), key_of(folded, OPTIONS | {"skin": 0.6})}
    names |= {key_of(folded, OPTIONS | {"dtype": torch.float64}), key_of(folded, OPTIONS | {"tensor_cores": True})}
    names |= {key_of(fold(make_model(kind)), OPTIONS) for kind in ("soft", "residual", "density")}
    names.add(key_of(fold(make_model("vectors", r_max=3.7)), OPTIONS))
    names.add(key_of(fold(make_model("vectors"), [1, 8]), OPTIONS))
    changed = fold(make_model("vectors"))
    changed.v_r[0] = torch.nextafter(changed.v_r[0], torch.tensor(10.0, dtype=torch.float64))
    names.add(key_of(changed, OPTIONS))
    assert len(names) == 10
    assert key_of(fold(make_model("vectors")), OPTIONS) in names


@pytest.mark.parametrize("damage", ["a bit", "cut short", "empty", "longer"])
def test_what_is_damaged_is_made_again(folded, tmp_path, damage):
    whole = cached_pack(folded, tmp_path, **OPTIONS)
    (file,) = tmp_path.glob("*.packed")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    cut = file.read_bytes()
    file.write_bytes({"a bit": data, "cut short": cut[:-100], "empty": b"", "longer": cut + b"0"}[damage])
    assert torch.equal(cached_pack(folded, tmp_path, **OPTIONS), whole)
    assert file.read_bytes() == cut


def test_a_full_disk_leaves_nothing(folded, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert torch.equal(cached_pack(folded, tmp_path, **OPTIONS), pack(folded, **OPTIONS))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_done_without(folded, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert torch.equal(cached_pack(folded, tmp_path / "file" / "folder", **OPTIONS), pack(folded, **OPTIONS))


def test_the_folder_is_bounded_and_keeps_what_was_used_last(folded, tmp_path, monkeypatch):
    size = pack(folded, **OPTIONS).numel() + 32
    monkeypatch.setattr(cache, "LARGEST", 3 * size)
    for k, skin in enumerate([0.1, 0.2, 0.3]):
        cached_pack(folded, tmp_path, dtype=torch.float32, skin=skin)
        os.utime(tmp_path / f"{key_of(folded, {'dtype': torch.float32, 'skin': skin})}.packed", (k, k))
    cached_pack(folded, tmp_path, dtype=torch.float32, skin=0.1)  # used again: now the youngest
    cached_pack(folded, tmp_path, dtype=torch.float32, skin=0.4)
    left = {file.stem for file in tmp_path.iterdir()}
    assert left == {key_of(folded, {"dtype": torch.float32, "skin": skin}) for skin in (0.1, 0.3, 0.4)}
