"""The page of several runs: the same quantities in columns, their differences, and the curves over each other."""

from html import escape

from mace_md.analysis.comparison import Group, Row
from mace_md.analysis.report.citations import bibtex
from mace_md.analysis.report.page import document
from mace_md.analysis.results import Figure, with_interval


def page_of_several(groups: list[Group], table: list[tuple[str, list[Row]]], figures: list[Figure], drawn: dict) -> str:
    """The page; `drawn`: the SVG of each figure, in the page's colours."""
    count = sum(len(one.analyses) for one in groups)
    title = f"{count} runs, averaged" if len(groups) == 1 else f"{count} runs side by side"
    cards = "".join(
        f'<figure class="card"><h3>{escape(figure.title)}</h3>{drawn[figure.name]}</figure>' for figure in figures
    )
    keys = [key for one in groups for a in one.analyses for result in a.results for key in result.cite]
    body = (
        f'<header><p class="kicker">Comparison</p><h1>{title}</h1><p class="lead">'
        + " · ".join(escape(one.name) for one in groups)
        + '</p><nav aria-label="Sections"><a href="#numbers">Numbers</a><a href="#figures">Figures</a>'
        '<a href="#cite">How to cite</a></nav></header><main id="content">'
        + _states(groups)
        + _table(groups, table)
        + (f'<h2 id="figures">Figures</h2><div class="grid">{cards}</div>' if cards else "")
        + '<h2 id="cite">How to cite</h2><p><button id="copy" type="button">Copy BibTeX</button></p>'
        f'<pre id="bibtex" tabindex="0">{escape(bibtex(keys))}</pre></main>'
        "<footer><p>Beside this page: <code>comparison.json</code>, and each figure as SVG and PNG. Each run has a "
        "page of its own. Made by mace-md.</p></footer>"
    )
    return document(title, body)


def _states(groups: list[Group]) -> str:
    """A line on each run that is not known to be equilibrated."""
    lines = [
        f"<li>{escape(a.system.source.name)}: {escape(a.window.said)}.</li>"
        for one in groups
        for a in one.analyses
        if a.window.equilibrated is not True
    ]
    if not lines:
        return (
            '<div class="verdict yes" role="status"><span class="mark" aria-hidden="true">&#10003;</span><p><b>'
            "All runs are equilibrated</b><span>What comes after equilibration is averaged in each.</span></p></div>"
        )
    return f'<section class="notes" aria-labelledby="mind"><h3 id="mind">Mind</h3><ul>{"".join(lines)}</ul></section>'


def _table(groups: list[Group], table: list[tuple[str, list[Row]]]) -> str:
    heads = "".join(f'<th scope="col">{escape(one.name)}</th>' for one in groups)
    rows = []
    for title, quantities in table:
        rows.append(f'<tr class="group"><th colspan="{len(groups) + 1}" scope="rowgroup">{escape(title)}</th></tr>')
        rows += [_row(row, groups) for row in quantities]
    between = any(len(one.analyses) >= 3 for one in groups)
    said = "± is half of a 95 % interval" + (
        ", of the spread between runs where there are three or more" if between else ""
    )
    if len(groups) > 1:
        said += (
            f". Δ is the difference to {groups[0].name}, with its interval; in bold where it is significant "
            "(5 % for the whole table together, Welch and Bonferroni)"
        )
    return (
        '<h2 id="numbers">Numbers</h2><div class="scroll" tabindex="0" role="region" aria-label="Numbers"><table>'
        f'<caption>{escape(said)}.</caption><thead><tr><th scope="col">quantity</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(row: Row, groups: list[Group]) -> str:
    cells = []
    for k in range(len(groups)):
        value, mean, change = row.values[k], row.means[k], row.differences[k]
        if value is None:
            cells.append("<td>–</td>")
            continue
        text = f"{value:.4g}" if mean is None else with_interval(mean.value, mean.half_width())
        if mean is None:
            text += ' <span class="refused">no interval</span>'
        if change is not None:
            kind = "differs" if row.significant[k] else "same"
            delta = with_interval(change.value, change.half_width)
            sign = "+" if change.value > 0 and not delta.startswith("(") else ""
            text += f'<br><span class="{kind}">Δ {sign}{delta}</span>'
            text += ' <span class="remark">(significant)</span>' if row.significant[k] else ""
        cells.append(f'<td class="number">{text}</td>')
    unit = f' <span class="remark">{escape(row.quantity.unit)}</span>' if row.quantity.unit else ""
    return f'<tr><th scope="row">{escape(row.quantity.label)}{unit}</th>{"".join(cells)}</tr>'
