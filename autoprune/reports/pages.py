"""HTML pages from the templates beside this file; each page is whole: it fetches nothing and runs no script."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from autoprune.foundation.files import write_text

SHARED = Path(__file__).parent  # templates that others include, too


def write_page(path: Path, template: str, context: Mapping[str, object], *, folder: Path = SHARED) -> None:
    """Fill in `template` of `folder`, which may name nothing that is not in `context`, and write the page to `path`."""
    environment = Environment(
        loader=FileSystemLoader([folder, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(template).render(context))
