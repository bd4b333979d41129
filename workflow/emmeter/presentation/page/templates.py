"""The templates of pages."""

from functools import cache
from typing import Any

import jinja2


def render(name: str, **content: Any) -> str:
    """A template of this package as HTML, with everything in it escaped but markup."""
    return _environment().get_template(name).render(content)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("emmeter.presentation.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
