"""Figures with matplotlib: one drawing, as SVG and PNG for papers and as SVG in the colours of the page.

No state of matplotlib outside is touched: figures are made from the object interface, with their own settings.
"""

import io
import re
from pathlib import Path

import numpy as np

from mace_md.analysis.results import Curve, Figure

# Okabe and Ito's colours, told apart by everybody; the page replaces them by its own for light and dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")
INK, FAINT, PAPER = "#1b1f24", "#9aa3ad", "#ffffff"
SIZE = (6.4, 3.4)  # inches
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def draw(figure: Figure, size: tuple[float, float] = SIZE):
    """A matplotlib figure."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    settings = {"font.size": 10, "font.family": "DejaVu Sans", "svg.fonttype": "path", "axes.unicode_minus": True,
                "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK,
                "ytick.color": INK, "axes.linewidth": 0.8}  # fmt: skip
    with matplotlib.rc_context(settings):
        canvas = Canvas(
            figsize=(size[1] * 1.45, size[1] * 1.15) if figure.heat is not None else size, layout="constrained"
        )
        FigureCanvasAgg(canvas)
        axes = canvas.subplots()
        canvas.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        if figure.heat is not None:
            _heat(canvas, axes, figure)
        for k, curve in enumerate(figure.curves):
            _curve(axes, curve, COLOURS[_colour(figure, k) % len(COLOURS)], DASHES[0])
        _decorate(axes, figure)
    return canvas


def _colour(figure: Figure, k: int) -> int:
    """A fit, and a mean, has the colour of the curve before it."""
    return sum(curve.style != "dashed" for curve in figure.curves[: k + 1]) - 1 if k else 0


def _curve(axes, curve: Curve, colour: str, dash) -> None:
    x, y = np.asarray(curve.x, dtype=float), np.asarray(curve.y, dtype=float)
    if curve.style == "points":
        axes.plot(x, y, ".", markersize=2.5, color=colour, label=curve.label, rasterized=len(x) > 400)
        return
    if curve.style == "bars":
        axes.errorbar(x, y, curve.error, fmt="o", markersize=5, capsize=4, color=colour, label=curve.label)
        return
    if curve.error is not None:
        axes.fill_between(x, y - curve.error, y + curve.error, color=colour, alpha=0.22, linewidth=0)
    style = "--" if curve.style == "dashed" else dash
    axes.plot(x, y, style, color=INK if curve.label == "mean" else colour, linewidth=1.3, label=curve.label)


def _heat(canvas, axes, figure: Figure) -> None:
    x, y, values = figure.heat
    shown = np.ma.masked_invalid(
        np.where(np.asarray(values) == 0, np.nan, values) if "F /" not in figure.heat_label else values
    )
    reverse = "_r" if "F /" in figure.heat_label else ""
    mesh = axes.pcolormesh(x, y, shown.T, cmap="viridis" + reverse, shading="flat", rasterized=True)
    bar = canvas.colorbar(mesh, ax=axes)
    bar.set_label(figure.heat_label)
    bar.outline.set_edgecolor(FAINT)
    axes.set_aspect("equal")
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(range(-180, 181, 90))


def _decorate(axes, figure: Figure) -> None:
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.spines[["top", "right"]].set_visible(figure.heat is not None)
    if figure.shaded is not None:
        axes.axvspan(*figure.shaded, color=FAINT, alpha=0.25, linewidth=0)
    for x, text in figure.marks:
        axes.axvline(x, color=FAINT, linewidth=0.8)
        axes.annotate(text, (x, 1), xycoords=("data", "axes fraction"), fontsize=8, ha="right", va="top", rotation=90)
    if figure.x_range is not None:
        axes.set_xlim(*figure.x_range)
    if figure.y_zero:
        axes.set_ylim(bottom=0)
    if len(figure.curves) > 1:
        axes.legend(frameon=False, fontsize=9)


def svg_text(canvas) -> str:
    """A figure as the text of an SVG file."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mace-md", "svg.fonttype": "path"}):
        canvas.savefig(content, format="svg", metadata={"Date": None, "Creator": "mace-md"})
    return content.getvalue()


def write_figure(figure: Figure, folder: Path) -> tuple[list[Path], str]:
    """Write NAME.svg and NAME.png on white; returns their paths and the SVG for the page."""
    canvas = draw(figure)
    inline = for_page(svg_text(canvas), figure)
    canvas.patch.set_alpha(1)
    canvas.patch.set_facecolor(PAPER)
    paths = [folder / f"{figure.name}.svg", folder / f"{figure.name}.png"]
    canvas.savefig(paths[1], dpi=160, metadata={"Software": "mace-md"})
    paths[0].write_text(svg_text(canvas))
    return paths, inline


def for_page(svg: str, figure: Figure) -> str:
    """The SVG element alone, with identifiers of its own, a title for who does not see it, and the page's colours."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns:xlink="[^"]*"|\sxmlns="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    prefix = re.sub(r"\W", "", figure.name)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    for k, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--line{k + 1})")
    text = text.replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")
    text = re.sub(r'(<svg[^>]*?)\swidth="[^"]*pt"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\sheight="[^"]*pt"', r"\1", text, count=1)
    label = (figure.alt or figure.title).replace("&", "&amp;").replace('"', "'").replace("<", "&lt;")
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return re.sub(r"\n\s*", "\n", text)
