"""What a run writes: rows, frames, trajectories, checkpoints."""
