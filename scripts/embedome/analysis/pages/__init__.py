"""Pages of the report: HTML templates, filled in by Jinja, and the texts that explain the figures."""

from importlib import resources
from pathlib import Path
from typing import Any

from embedome.common.atomic_files import atomic_path


def page_text(name: str) -> str:
    """Return a file of this folder."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def write_page_of(path: Path, template: str, **values: Any) -> None:
    """Write a page from a template of this folder; values are escaped unless the template calls them safe."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    pages = Environment(
        loader=FunctionLoader(page_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(pages.get_template(template).render(values) + "\n", encoding="utf-8")
