"""The report as a person reads it."""


def write_report(root, results, store):
    pass
