"""From files to the structure a run starts from: read, complete, solvate, select, check."""
