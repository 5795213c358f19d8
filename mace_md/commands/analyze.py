"""`mace-md analyze`: from runs to numbers with intervals, tables, figures and a page."""

import logging
import os
from pathlib import Path

from mace_md.analysis import comparison, writing
from mace_md.analysis.pipeline import Analysis, Wishes, analyse
from mace_md.analysis.reading import open_source, runs_in
from mace_md.analysis.report.page import page_of
from mace_md.analysis.report.side_by_side import page_of_several
from mace_md.analysis.results import with_interval
from mace_md.config import AnalyzeConfig
from mace_md.errors import UsageError
from mace_md.provenance import write_atomically
from mace_md.units import ANGSTROM_TO_NM

log = logging.getLogger("mace_md")

COMPARISON = "comparison.json"


def main(config: AnalyzeConfig) -> int:
    """Analyse each run into a folder of its own, and several together; 0 when all is done. Raises InputError."""
    paths = [run for path in config.runs for run in runs_in(path)]
    if config.compare and len(paths) < 2:
        raise UsageError("--compare needs two runs at least")
    outputs = [_output(config, path, len(paths)) for path in paths]
    shared = _shared_output(config, paths) if len(paths) > 1 else None
    sources = [open_source(path, config.topology) for path in paths]
    for folder in [*outputs, *([shared] if shared else [])]:
        writing.claim(folder, config.force, COMPARISON if folder is shared else writing.JSON)
    analyses = []
    for source, output in zip(sources, outputs, strict=True):
        found = analyse(source, wishes_of(config))
        _write(config, found, output)
        _say(found, output)
        analyses.append(found)
    if shared is not None:
        _together(config, analyses, shared)
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
    if config.output is not None:
        return config.output if count == 1 else config.output / path.resolve().name
    return path / "analysis" if path.is_dir() else path.with_name(f"{path.stem}-analysis")


def _shared_output(config: AnalyzeConfig, paths: list[Path]) -> Path:
    """Of several runs: the folder of the options, or `analysis` in the one that has all of them."""
    return config.output or Path(os.path.commonpath([path.resolve().parent for path in paths])) / "analysis"


def _write(config: AnalyzeConfig, found: Analysis, output: Path) -> None:
    writing.write_tables(found.results, output)
    figures = writing.write_figures([figure for result in found.results for figure in result.figures], output)
    writing.write_json_file(output / writing.JSON, writing.as_json(found))
    if config.report:
        write_atomically(output / writing.PAGE, page_of(found, figures))


def _together(config: AnalyzeConfig, analyses: list[Analysis], output: Path) -> None:
    groups = comparison.group(analyses, config.compare)
    table = comparison.compare(groups)
    figures = comparison.overlays(groups)
    drawn = writing.write_figures(figures, output)
    writing.write_json_file(output / COMPARISON, comparison.as_json(groups, table))
    if config.report:
        write_atomically(output / writing.PAGE, page_of_several(groups, table, figures, drawn))
    log.info("together: %s", ", ".join(one.name for one in groups))
    for _, rows in table:
        for row in rows:
            cells = [
                "-" if value is None else f"{value:.4g}" if mean is None else with_interval(value, mean.half_width())
                for value, mean in zip(row.values, row.means, strict=True)
            ]
            log.info("  %-34s %s %s", row.quantity.label, "   ".join(cells), row.quantity.unit)
    log.info("written: %s", output)


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
    log.info("written: %s", output)
