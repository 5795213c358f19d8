"""Files are cut back to a checkpoint at a row or a frame, and only where they are the run's own."""

import pytest

from mace_md.errors import InputError
from mace_md.md.files.cutting import TAIL, check_files, cut_files, tails_of

ROWS = [f"{step},{0.1 * step:.6f},-{step % 7}.5\n" for step in range(0, 25_000, 5)]
WHOLE = "".join(["step,time_ps,potential_kJ_mol\n", *ROWS]).encode()
KEPT = WHOLE[: WHOLE.index(b"20000,")]  # longer than what is compared, and so is the rest


@pytest.fixture
def folder(tmp_path):
    """With log.csv, longer than at the checkpoint of which `sizes` and `tails` are."""
    (tmp_path / "log.csv").write_bytes(WHOLE)
    return tmp_path


SIZES = {"log.csv": len(KEPT)}


def cut(folder, content, tails):
    (folder / "log.csv").write_bytes(content)
    check_files(folder, SIZES, tails)
    assert (folder / "log.csv").read_bytes() == content  # a look touches nothing
    notes = cut_files(folder, SIZES, (), tails)
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv"]
    return (folder / "log.csv").read_bytes(), notes


def test_the_texts_are_longer_than_what_is_compared():
    assert len(KEPT) > TAIL and len(WHOLE) > len(KEPT) + 100


def test_a_longer_file_is_cut(folder):
    content, notes = cut(folder, WHOLE, tails_of(folder, SIZES))
    assert content == KEPT and "cut by" in notes[0]


@pytest.mark.parametrize("ends", [b"\r\n", b"\r"], ids=["dos", "old-mac"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
@pytest.mark.parametrize("rest", [True, False], ids=["longer", "as-long"])
def test_other_line_ends_are_the_same_rows(folder, ends, start, rest):
    tails = tails_of(folder, SIZES)
    content, notes = cut(folder, start + (WHOLE if rest else KEPT).replace(b"\n", ends), tails)
    assert content == KEPT and notes == ["log.csv: was saved with other line ends; it has its own again"]


def test_a_last_line_without_an_end(folder):
    tails = tails_of(folder, SIZES)
    assert cut(folder, KEPT[:-1], tails)[0] == KEPT
    assert cut(folder, KEPT.replace(b"\n", b"\r\n")[:-2], tails)[0] == KEPT


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (WHOLE.replace(b"19995,", b"19994,"), "is not the file that this run wrote"),
        (b"".join(line.encode() for line in ROWS) * 2, "is not the file that this run wrote"),
        (KEPT[: len(KEPT) - 30], "bytes, but had"),
        (KEPT.replace(b"\n", b"\r\n")[: len(KEPT) // 2], "bytes, but had"),
    ],
    ids=["changed-row", "other-run", "shorter", "shorter-dos"],
)
def test_what_is_not_the_runs_is_refused_and_left(folder, content, words):
    tails = tails_of(folder, SIZES)
    (folder / "log.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        check_files(folder, SIZES, tails)
    assert (folder / "log.csv").read_bytes() == content


def test_a_checkpoint_without_hashes_cuts_where_a_row_ends(folder):
    assert cut(folder, WHOLE, {})[0] == KEPT
    (folder / "log.csv").write_bytes(WHOLE.replace(b"\n", b"\r\n"))
    with pytest.raises(InputError, match="is not the file"):
        check_files(folder, SIZES, {})


def test_the_count_of_frames_in_a_dcd_header_may_differ(tmp_path):
    path = tmp_path / "trajectory.dcd"
    path.write_bytes(bytes(range(256)) * 4)
    sizes = {path.name: 600}
    tails = tails_of(tmp_path, sizes)
    content = bytearray(path.read_bytes())
    content[8:12] = content[20:24] = b"\x09\x09\x09\x09"
    path.write_bytes(content)
    check_files(tmp_path, sizes, tails)
    content[24] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not the file"):
        check_files(tmp_path, sizes, tails)
