"""The run itself: simulation, production loop, exact restarts, graphs, memory, broken numbers."""
