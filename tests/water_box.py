"""Boxes of water on a lattice, as PDB files."""

from pathlib import Path

import numpy as np

WATER = "HETATM{serial:5d} {name:<4s} HOH A{residue:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           {element}\n"
GEOMETRY = (("O", "O", 0.0, 0.0), ("H1", "H", 0.957, 0.0), ("H2", "H", -0.240, 0.927))  # A


def water_pdb(path: Path, per_side: int = 3, spacing: float = 3.1, periodic: bool = True) -> Path:
    """Write per_side^3 water molecules on a cubic lattice."""
    side = per_side * spacing
    lines = [f"CRYST1{side:9.3f}{side:9.3f}{side:9.3f}  90.00  90.00  90.00 P 1           1\n"] if periodic else []
    grid = np.stack(np.meshgrid(*[np.arange(per_side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * spacing
    for k, (x, y, z) in enumerate(grid.tolist()):
        for m, (name, element, dx, dy) in enumerate(GEOMETRY):
            lines.append(
                WATER.format(
                    serial=3 * k + m + 1, name=" " + name, residue=k + 1, x=x + dx, y=y + dy, z=z, element=element
                )
            )
    path.write_text("".join(lines) + "END\n")
    return path
