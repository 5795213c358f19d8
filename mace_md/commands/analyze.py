"""`mace-md analyze`: from runs to numbers with intervals, tables, figures and a page."""

import logging
from pathlib import Path

from mace_md.analysis import writing
from mace_md.analysis.pipeline import Analysis, Wishes, analyse
from mace_md.analysis.reading import open_source, runs_in
from mace_md.analysis.report.page import page_of
from mace_md.config import AnalyzeConfig
from mace_md.provenance import write_atomically
from mace_md.units import ANGSTROM_TO_NM

log = logging.getLogger("mace_md")


def main(config: AnalyzeConfig) -> int:
    """Analyse each run into a folder of its own; 0 when all is done. Raises InputError."""
    paths = [run for path in config.runs for run in runs_in(path)]
    for path in paths:
        source = open_source(path, config.topology)
        output = _output(config, path, len(paths))
        writing.claim(output, config.force)
        found = analyse(source, wishes_of(config))
        _write(config, found, output)
        _say(found, output)
    return 0


def wishes_of(config: AnalyzeConfig) -> Wishes:
    """The options in the units of the analysis."""
    return Wishes(
        observables=config.observables, skip=config.skip, every=config.every, rdf=config.rdf or (),
        r_max=None if config.r_max is None else config.r_max * ANGSTROM_TO_NM, torsions=config.torsions or (),
        charges=config.charges, dipoles=config.dipoles, viscosity=config.viscosity, resolution=config.resolution,
        quiet=config.quiet,
    )  # fmt: skip


def _output(config: AnalyzeConfig, path: Path, count: int) -> Path:
    if config.output is None:
        return (path if path.is_dir() else path.with_name(f"{path.stem}-analysis")) / (
            "analysis" if path.is_dir() else ""
        )
    return config.output if count == 1 else config.output / path.resolve().name


def _write(config: AnalyzeConfig, found: Analysis, output: Path) -> None:
    writing.write_tables(found.results, output)
    figures = writing.write_figures(found.results, output)
    writing.write_json_file(output / writing.JSON, writing.as_json(found))
    if config.report:
        write_atomically(output / writing.PAGE, page_of(found, figures))


def _say(found: Analysis, output: Path) -> None:
    source = found.system.source
    log.info("%s: %s, %d atoms, %d frames", source.name, found.system.kind, len(found.system.masses), found.num_frames)
    log.info("  %s", found.window.said)
    for result in found.results:
        for quantity in result.quantities:
            n_eff = "" if quantity.mean is None else f"  ({quantity.mean.n_eff:.0f} independent)"
            remark = f"  {quantity.remark}" if quantity.remark else ""
            log.info("  %-34s %s%s%s", quantity.label, quantity.text(), n_eff, remark)
            if quantity.refused:
                log.info("  %-34s no interval: %s", "", quantity.refused)
    for warning in [*found.warnings, *(warning for result in found.results for warning in result.warnings)]:
        log.warning("warning: %s", warning)
    for name, reason in found.missing.items():
        log.info("  not done: %s", reason if reason.startswith(name) else f"{name}: {reason}")
    log.info("written: %s", output / writing.PAGE if (output / writing.PAGE).exists() else output)
