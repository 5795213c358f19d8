"""Models from files of others and from the list of published ones, without running pickled code."""
