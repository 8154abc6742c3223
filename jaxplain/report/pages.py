"""Pages: HTML files that need no other file, rendered from the templates of this package."""

import functools
import math
from typing import Any

import jinja2

from jaxplain import overlay


def render(template: str, **context: Any) -> str:
    """Render a template of this package; every value is escaped, and a missing one is an error.

    Example:
      >>> render("base.html", title="cats & dogs").count("cats &amp; dogs")
      1
    """
    return _environment().get_template(template).render(context)


def probability_text(value: float) -> str:
    """Return a number from 0 to 1 as people read it.

    Example:
      >>> probability_text(0.567), probability_text(0.001), probability_text(0.0), probability_text(float("nan"))
      ('0.57', '< 0.01', '0.00', 'n/a')
    """
    if not math.isfinite(value):
        return "n/a"
    return "< 0.01" if 0.0 < value < 0.005 else f"{value:.2f}"


def percent_text(share: float) -> str:
    """Return a share as people read it.

    Example:
      >>> percent_text(0.567), percent_text(float("nan"))
      ('57%', 'n/a')
    """
    return f"{100 * share:.0f}%" if math.isfinite(share) else "n/a"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxplain.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "probability": probability_text,
        "percent": percent_text,
        "data_uri": overlay.data_uri,
        "px": lambda value: f"{value:.1f}".rstrip("0").rstrip("."),
    }
    return environment
