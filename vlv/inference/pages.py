"""HTML pages from Jinja2 templates: one file without network access, everything that is filled in escaped."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vlv.atomic import write_whole

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, values: dict[str, object], folder: Path = TEMPLATES) -> None:
    """Fill in a template and write the page, whole or not at all.

    Args:
        template: its file name.
        values: what it names; a name that it lacks is an error, not an empty place.
        folder: where the template lies; it may extend the templates here (`page.html`).
    """
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,  # file names and captions are anybody's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["link"] = _link
    page = environment.get_template(template).render(values)
    # Undecodable bytes of a file name, which Python holds as lone surrogates, have no UTF-8.
    write_whole(path, page.encode("utf-8", "backslashreplace"))


def _link(path: str) -> str:
    """A relative path as a link: `#`, `?`, `%` and quotes in a file name are not the URL's own."""
    return quote(path, safe="/", errors="surrogateescape")
