"""Figures inside a page: SVG whose colours are variables of the page, so that light and dark share one drawing."""

import html
import io
import re

from emmeter.presentation.style import INK, MUTED, PAPER, RULE, SERIES, Figure

VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"} | {
    colour: f"s{index}" for index, colour in enumerate(SERIES)
}  # names of the page's CSS variables, by the colours of the figures


def inline(figure: Figure, prefix: str, title: str, description: str = "") -> str:
    """A figure as an SVG element for HTML: text as text in the page's font, colours as variables, ids of its own.

    The page defines the variables of `VARIABLES`, such as ``--ink`` and ``--s0``.  A halo in the colour of the
    paper keeps text legible on lines; the page's style gives it, for ``svg.figure text``.

    Args:
        figure: drawn in `style.styled`.
        prefix: unique in the page, of letters, digits and hyphens; ids begin with it.
        title: the name of the figure for readers who do not see it.
        description: its content in words.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    width, height = figure.get_size_inches() * 72
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    # Matplotlib's style element would style the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>|<!--.*?-->", "", body, flags=re.S)
    body = _own_ids(body, prefix)
    body = re.sub(r"<[^>]+>", lambda tag: _shorter(tag[0]), body)  # in tags alone: an arm may be named x0.25
    body = re.sub(r"\s*\n\s*", " ", body).strip()
    names = f"{prefix}-title {prefix}-desc" if description else f"{prefix}-title"
    described = f'<desc id="{prefix}-desc">{html.escape(description)}</desc>' if description else ""
    return (
        f'<svg class="figure" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="{names}">'
        f'<title id="{prefix}-title">{html.escape(title)}</title>{described}{body}</svg>'
    )


def _own_ids(svg: str, prefix: str) -> str:
    """Give the ids that something refers to a prefix, and remove the others."""
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "", svg)
    return re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", svg)


def _shorter(tag: str) -> str:
    """A tag with coordinates of one decimal, colours as variables, and the font of the page."""
    tag = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), tag)
    tag = re.sub(r'(?:font-family: [^;"]*;? ?)| transform="rotate\(-?0 [^"]*"', "", tag)
    return re.sub("|".join(VARIABLES), lambda colour: f"var(--{VARIABLES[colour[0]]})", tag)
