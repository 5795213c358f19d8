"""Does a simulation sample what it says? One command that checks every integrator and barostat against theory."""
