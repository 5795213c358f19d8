"""report.html: what was run, whether it is equilibrated, the numbers, the figures, the moving molecule, what to cite.

The page is a view of analysis.json: all that is in it is in the files beside it. It asks nothing of a network, and its
policy (Content-Security-Policy) would not let it.
"""

import json
from html import escape
from importlib import resources

from mace_md.analysis.pipeline import Analysis
from mace_md.analysis.reading import end_of_run
from mace_md.analysis.report import viewer
from mace_md.analysis.report.citations import bibtex
from mace_md.analysis.results import Quantity, Result

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:"
TILES = 4
MARKS = {True: ("yes", "&#10003;", "Equilibrated"), False: ("no", "&#10007;", "Not equilibrated"),
         None: ("unknown", "?", "It cannot be told whether this run is equilibrated")}  # fmt: skip
HEADLINES = ("density", "diffusion_", "temperature", "potential_energy", "rmsd", "heat_capacity", "radius_of_gyration")


def page_of(analysis: Analysis, figures: dict[str, str]) -> str:
    """The page of one run; `figures`: the SVG of each figure, in the page's colours."""
    source = analysis.system.source
    molecule = viewer.payload(analysis)
    body = [
        _header(analysis),
        '<main id="content">',
        _verdict(analysis),
        _warnings(analysis),
        _tiles(analysis.results),
        _numbers(analysis.results),
        '<h2 id="figures">Figures</h2><div class="grid">',
        _moving(analysis) if molecule is not None else "",
        *(_figures(result, figures) for result in analysis.results),
        "</div>",
        _missing(analysis),
        _provenance(analysis),
        _citations(analysis),
        "</main>",
        _footer(analysis),
    ]
    scripts = ""
    if molecule is not None:
        scripts = (
            f'<script id="molecule" type="application/json">{molecule}</script><script>{_read("3Dmol-min.js")}</script>'
        )
    return document(f"{source.name}: analysis", "\n".join(body), scripts)


def document(title: str, body: str, scripts: str = "") -> str:
    """A whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="generator" content="mace-md"><link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{_read('page.css')}</style></head><body>"
        '<a class="skip-link" href="#content">Skip to the content</a>'
        f"{body}{scripts}<script>{_read('page.js')}</script></body></html>\n"
    )


def _read(name: str) -> str:
    """A file of this package, safe inside of a script or style element."""
    return (resources.files("mace_md.analysis.report") / name).read_text().replace("</script", "<\\/script")


def _header(analysis: Analysis) -> str:
    source, system, options = analysis.system.source, analysis.system, analysis.system.source.options
    kinds = system.molecules.kinds
    counts = sorted({kind: kinds.count(kind) for kind in kinds}.items(), key=lambda item: -item[1])
    said = [", ".join(f"{count} {_formula(kind)}" for kind, count in counts[:4]) + (", ..." if len(counts) > 4 else "")]
    said.append(f"{len(system.masses)} atoms")
    if options:
        said.append(_ensemble(options))
        if source.log:
            said.append(f"{source.log['time_ps'][-1] - source.log['time_ps'][0]:.4g} ps")
        said.append(escape(str(options.get("model", ""))))
    links = [("numbers", "Numbers"), ("figures", "Figures"), ("run", "What was run"), ("cite", "How to cite")]
    return (
        f'<header><p class="kicker">Analysis of a {escape(system.kind)}</p><h1>{escape(source.name)}</h1>'
        f'<p class="lead">{" · ".join(part for part in said if part)}</p><nav aria-label="Sections">'
        + "".join(f'<a href="#{at}">{text}</a>' for at, text in links)
        + "</nav></header>"
    )


def _formula(kind: str) -> str:
    return "".join(f"<sub>{letter}</sub>" if letter.isdigit() else escape(letter) for letter in kind)


def _ensemble(options: dict) -> str:
    text = str(options.get("ensemble", "nvt")).upper()
    if "temperature" in options:
        text += f", {float(options['temperature']):g} K"
    if text.startswith("NPT"):
        text += f", {float(options.get('pressure', 1.0)):g} bar"
    return text


def _verdict(analysis: Analysis) -> str:
    kind, mark, title = MARKS[analysis.window.equilibrated]
    start, end = analysis.window.pair
    said = analysis.window.said.removeprefix("not equilibrated: ")
    return (
        f'<div class="verdict {kind}" role="status"><span class="mark" aria-hidden="true">{mark}</span>'
        f"<p><b>{title}</b><span>{escape(said[0].upper() + said[1:])}. Averages are over {start:.4g} to {end:.4g} ps."
        "</span></p></div>"
    )


def _warnings(analysis: Analysis) -> str:
    said = [*analysis.warnings, *(text for result in analysis.results for text in result.warnings)]
    said += [f"from the run: {text}" for text in analysis.run_warnings]
    if not said:
        return ""
    lines = "".join(f"<li>{escape(text[0].upper() + text[1:])}.</li>" for text in dict.fromkeys(said))
    return f'<section class="notes" aria-labelledby="mind"><h3 id="mind">Mind</h3><ul>{lines}</ul></section>'


def _tiles(results: list[Result]) -> str:
    """The numbers that people look for first; those with an interval."""
    quantities = [quantity for result in results for quantity in result.quantities if quantity.mean is not None]
    found = []
    for start in HEADLINES:
        found += [quantity for quantity in quantities if quantity.key.startswith(start) and quantity not in found]
    found += [quantity for quantity in quantities if quantity not in found]
    tiles = []
    for quantity in found[:TILES]:
        text = quantity.text().removesuffix(f" {quantity.unit}") if quantity.unit else quantity.text()
        remark = f"{_n_eff(quantity)} independent samples" + (f"; {quantity.remark}" if quantity.remark else "")
        tiles.append(
            f'<div class="tile"><div class="what">{escape(quantity.label)}</div><div class="value">{escape(text)} '
            f'<small>{escape(quantity.unit)}</small></div><div class="how">{escape(remark)}</div></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _n_eff(quantity: Quantity) -> str:
    return f"{quantity.mean.n_eff:.0f}" if quantity.mean is not None else ""


def _numbers(results: list[Result]) -> str:
    rows = []
    for result in results:
        if result.quantities:
            rows.append(f'<tr class="group"><th colspan="5" scope="rowgroup">{escape(result.title)}</th></tr>')
            rows += [_row(quantity) for quantity in result.quantities]
    return (
        '<h2 id="numbers">Numbers</h2><div class="scroll" tabindex="0" role="region" aria-label="Numbers">'
        '<table class="stack"><caption>± is half of a 95 % interval. n<sub>eff</sub>: how many independent samples the '
        'average counts as; below 10 there is no interval.</caption><thead><tr><th scope="col">quantity</th>'
        '<th scope="col">value</th><th scope="col">n<sub>eff</sub></th><th scope="col">window / ps</th>'
        '<th scope="col">remarks</th></tr></thead><tbody>' + "".join(rows) + "</tbody></table></div>"
    )


def _row(quantity: Quantity) -> str:
    window = "" if quantity.window is None else f"{quantity.window[0]:.4g} – {quantity.window[1]:.4g}"
    remark = f'<span class="remark">{escape(quantity.remark)}</span>' if quantity.remark else ""
    if quantity.refused:
        remark += ("<br>" if remark else "") + f'<span class="refused">No interval: {escape(quantity.refused)}</span>'
    return (
        f'<tr><th scope="row">{escape(quantity.label)}</th><td class="number"><b>{escape(quantity.text())}</b></td>'
        f'<td class="number" data-what="n_eff">{_n_eff(quantity)}</td>'
        f'<td class="number" data-what="window / ps">{window}</td><td>{remark}</td></tr>'
    )


def _figures(result: Result, figures: dict[str, str]) -> str:
    cards = []
    for number, figure in enumerate(result.figures):
        method = f"<figcaption>{escape(result.method)}</figcaption>" if number == 0 and result.method else ""
        cards.append(f'<figure class="card"><h3>{escape(figure.title)}</h3>{figures[figure.name]}{method}</figure>')
    return "".join(cards)


def _moving(analysis: Analysis) -> str:
    count = len(analysis.shown)
    said = (
        f"{count} of {len(analysis.system.masses)} atoms" if count < len(analysis.system.masses) else f"{count} atoms"
    )
    return (
        '<figure class="card moving"><h3>The molecule moving</h3>'
        f'<div id="viewer" role="img" aria-label="Moving picture of {said}"></div>'
        '<div class="controls" id="controls"><button id="play" type="button">Play</button>'
        '<label for="frame">Frame</label><input id="frame" type="range" min="0" max="0" value="0">'
        '<output id="time" for="frame"></output></div>'
        f"<figcaption>{said}, {len(analysis.frames)} frames. Drag to turn, scroll to zoom.</figcaption></figure>"
    )


def _missing(analysis: Analysis) -> str:
    if not analysis.missing:
        return ""
    lines = "".join(f"<li><b>{escape(name)}</b>: {escape(text.removeprefix(f'{name}: '))}.</li>"
                    for name, text in analysis.missing.items())  # fmt: skip
    return f"<h2>What could not be said</h2><ul>{lines}</ul>"


def _provenance(analysis: Analysis) -> str:
    source = analysis.system.source
    options, record = source.options, source.record
    model = record.get("model") or {}
    device = record.get("device") or {}
    rows = [
        ("Folder", source.folder or source.trajectory),
        ("State", end_of_run(source)),
        ("Frames", f"{analysis.num_frames}" + (f", {analysis.frame_step:g} ps apart" if analysis.frame_step else "")),
        ("Ensemble", _ensemble(options) if options else ""),
        ("Thermostat", _thermostat(options)),
        ("Time step", f"{source.timestep:g} fs" if source.timestep else ""),
        ("Seed", record.get("seed", "")),
        ("Model", model.get("name", "")),
        ("Trained on", model.get("level_of_theory", "")),
        ("Dispersion", model.get("dispersion", "")),
        ("Licence of the model", model.get("licence", "")),
        ("SHA-256 of the model", model.get("sha256") or model.get("model_sha256") or ""),
        ("Platform", record.get("platform", "")),
        ("Machine", device.get("processor", "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())),
        ("Begun", record.get("created", "")),
        ("Command", " ".join(record.get("command") or [])),
    ]
    lines = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in rows if str(value or ""))
    whole = json.dumps(options, indent=1, default=str)
    more = f"<details><summary>All options of the run</summary><pre>{escape(whole)}</pre></details>" if options else ""
    return f'<h2 id="run">What was run</h2><dl>{lines}</dl>{more}'


def _thermostat(options: dict) -> str:
    if not options or options.get("ensemble") == "nve":
        return ""
    return f"{options.get('thermostat', 'langevin')}, {float(options.get('friction', 1.0)):g} 1/ps"


def _citations(analysis: Analysis) -> str:
    model = (analysis.system.source.record.get("model") or {}).get("citation", "")
    said = f"<p>The model: {escape(model)}.</p>" if model else ""
    keys = [key for result in analysis.results for key in result.cite]
    return (
        f'<h2 id="cite">How to cite</h2>{said}<p><button id="copy" type="button">Copy BibTeX</button></p>'
        f'<pre id="bibtex" tabindex="0">{escape(bibtex(keys))}</pre>'
    )


def _footer(analysis: Analysis) -> str:
    names = ", ".join(f"<code>{result.name}.csv</code>" for result in analysis.results if result.table)
    return (
        f"<footer><p>Beside this page: <code>analysis.json</code>, {names}, and each figure as SVG and PNG. Made by "
        "mace-md; the moving molecule is drawn by 3Dmol.js (BSD licence).</p></footer>"
    )
