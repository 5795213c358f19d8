"""What a step is: integrators, thermostats, barostats, ring polymers, masses, stages."""
