"""The moving molecule for the page: elements, bonds, boxes, and positions as 16-bit integers."""

import base64
import json

import numpy as np

from mace_md.analysis.pipeline import Analysis

MOST_BYTES = 1_100_000  # of the text of the positions


def payload(analysis: Analysis) -> str | None:
    """JSON for page.js; None without frames. Lengths in A; positions are `scale` times int16, frame by frame."""
    if analysis.frames is None or not len(analysis.frames):
        return None
    atoms, frames = analysis.shown, analysis.frames
    most = max(1, int(MOST_BYTES / (8 * len(atoms))))  # 3 coordinates of 2 bytes, a third more as text
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))
    positions = 10.0 * frames[chosen].astype(float)
    boxes = None if analysis.boxes is None else 10.0 * analysis.boxes[chosen]
    if boxes is None:  # follow a molecule that is free to fly away
        positions = positions - positions.mean(axis=1, keepdims=True)
    scale = max(float(np.abs(positions).max()), 1e-6) / 32767
    numbers = np.round(positions / scale).astype("<i2")
    at = {int(atom): k for k, atom in enumerate(atoms)}
    bonds = [
        (at[bond[0].index], at[bond[1].index])
        for bond in analysis.system.topology.bonds
        if bond[0].index in at and bond[1].index in at
    ]
    content = {
        "elements": [str(symbol) for symbol in analysis.system.symbols[atoms]],
        "bonds": bonds,
        "times": [round(float(time), 6) for time in analysis.frame_times[chosen]],
        "scale": scale,
        "positions": base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode(),
    }
    if boxes is not None:
        changing = np.ptp(boxes, axis=0).max() > 1e-6
        content["boxes"] = np.round(boxes if changing else boxes[:1], 4).tolist()
    return json.dumps(content, separators=(",", ":")).replace("</", "<\\/")
