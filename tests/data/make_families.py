"""Puts small models of every further family, and the numbers that mace-torch gives for them, into families.tar.xz.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 LES_SOURCE=.../les/src python tests/data/make_families.py FOLDER

FOLDER holds models with random weights, made with mace-torch 0.3.16 (and graph-longrange 0.4.0, les): no numbers in
them were trained. `reference.json`: for two structures of 12 atoms, neutral and with charge 1 and multiplicity 2, what
benchmarks/families_oracle.py gives in double precision.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from benchmarks import families_oracle, oracle  # noqa: E402

KINDS = (
    "mh1_like", "omol_like", "emb_readout", "bias_readout", "maceles_les", "polar_l1", "energy_dipoles", "dielectric",
    "atomic_dipoles", "gaussian_other_width", "z_unsorted",
)  # fmt: skip
KEPT = ("energy", "e0", "forces", "les_energy", "latent_charges", "BEC", "dipole", "polarizability")


def main() -> None:
    """Write families.tar.xz."""
    folder, systems, results = Path(sys.argv[1]), families_oracle.structures((1, 6, 8)), {}
    with tarfile.open(HERE / "families.tar.xz", "w:xz", preset=9) as archive:
        for kind in KINDS:
            path = folder / f"{kind}.model"
            with oracle.quiet():
                model = families_oracle.load(path)
                results[kind] = {
                    head: [_kept(families_oracle.evaluate(model, system, head)) for system in systems]
                    for head in getattr(model, "heads", ["Default"])
                }
            _add(archive, path.name, path.read_bytes())
            print(kind, flush=True)
        reference = {"structures": systems, "results": results}
        _add(archive, "reference.json", json.dumps(reference).encode())


def _kept(result: dict) -> dict:
    return {name: value for name, value in result.items() if name in KEPT}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main()
