"""Observables of runs: each reads frames or the log of a run, and says numbers, figures and a table."""
