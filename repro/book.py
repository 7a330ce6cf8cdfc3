"""What Sphinx does for the book beyond its settings in ``_config.yml``, which names this module as an extension."""

import re

from docutils import nodes

from repro import __version__


def setup(app) -> dict:
    """Register with the Sphinx application ``app``."""
    app.connect("doctree-resolved", _separate_cells)
    app.connect("html-page-context", _mend_roles)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}


def _separate_cells(app, doctree: nodes.document, docname: str) -> None:
    """Put a line break behind each block of raw HTML, so that search finds the words at its edges.

    Sphinx indexes raw HTML by taking the tags out, which would make one word of the last word of a cell and the
    first of the next.
    """
    for raw in doctree.findall(nodes.raw):
        if "html" in raw.get("format", "").split():
            raw.children = [nodes.Text(separate(raw.astext()))]


def separate(html: str) -> str:
    """``html`` with line breaks behind cells, captions, options and other blocks, and before blocks within them."""
    html = re.sub(r"(</(?:td|th|caption|div|p|li|option|label|figcaption|button|h\d)>|<br>)(?!\n)", r"\1\n", html)
    return re.sub(r"(?<!\n)(<(?:div|p)\b)", r"\n\1", html)


def _mend_roles(app, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Take back what docutils and MyST-NB tell screen readers wrongly.

    An entry of a bibliography has a role that is withdrawn, in a list that may hold items alone; the label of a
    folded cell hides the words that its line shows.
    """
    context["body"] = (
        context.get("body", "")
        .replace(' role="doc-biblioentry"', ' role="listitem"')
        .replace('<summary aria-label="Toggle hidden content">', "<summary>")
    )
