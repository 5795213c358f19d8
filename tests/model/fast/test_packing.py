"""The packed model: Python's lists and the manual of the format, plugins/blob.h, are the same."""

import re

import pytest

from mace_md.model.fast import packing


@pytest.fixture(scope="module")
def manual(repository):
    """Entries (name, comment) of each enum of the header, without those that only count."""
    text = (repository / "plugins" / "blob.h").read_text()
    found = {}
    for name, body in re.findall(r"enum (\w+) : int \{(.*?)\};", text, flags=re.DOTALL):
        lines = [line.strip() for line in body.splitlines() if line.strip().startswith("k")]
        found[name] = [
            re.fullmatch(r"k(\w+)(?: = kHeaderInts - (\d+))?,?(?:\s*// (.+))?", line).groups() for line in lines
        ]
    return found


def spelled(names):
    """Python's names as C++ spells them: max_ell as MaxEll, W_a_reverse as WaReverse."""
    return ["".join(part[0].upper() + part[1:] for part in name.replace("W_", "W").split("_")) for name in names]


def test_integers(manual):
    entries = manual["HeaderInt"]
    fixed = [(name, int(back)) for name, back, _ in entries if back]
    assert [name for name, back, _ in entries if not back] == [*spelled(packing.INTS), "Sections"]
    assert fixed == [(name, len(packing.CUDA_FLAGS) - i) for i, name in enumerate(spelled(packing.CUDA_FLAGS))]


def test_sections_and_parameters(manual):
    plain = {"BR": "BiasR", "VR": "Vr"}
    names = [name for name, _, _ in manual["Section"] if name != "SectionCount"]
    assert names == [plain.get(name, name) for name in spelled(packing.SECTIONS)]
    assert [name for name, _, _ in manual["HeaderDouble"]] == [*spelled(packing.DOUBLES), "ZblC"]


def test_every_entry_is_explained(manual):
    for name, entries in manual.items():
        silent = [entry for entry, _, comment in entries if not comment and not entry.endswith("Count")]
        assert not silent, (name, silent)


def test_sizes_and_version(repository):
    text = (repository / "plugins" / "blob.h").read_text()
    constants = dict(re.findall(r"constexpr \w+ (k\w+) = ([\w']+);", text))
    assert int(constants["kBlobMagic"].replace("'", ""), 16) == packing.MAGIC
    assert int(constants["kBlobVersion"]) == packing.VERSION
    assert int(constants["kHeaderInts"]) == packing.HEADER_INTS
    assert int(constants["kHeaderDoubles"]) == packing.HEADER_DOUBLES
