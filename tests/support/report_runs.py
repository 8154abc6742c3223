"""Quick reports: some methods on the toy classifier, with a control that does not use the network."""

import jax.numpy as jnp
from support import tiny

from jaxplain.methods import METHODS, MethodSpec
from jaxplain.runs import report
from jaxplain.runs.graphs import GraphSettings
from jaxplain.runs.photos import read_photo

SOME = ("gradient", "occlusion", "igos++")


def edges(score, image, baseline=None, *, key=None, batch_size=None):
    gray = image.mean(-1)
    down, across = jnp.diff(gray, axis=0, append=gray[-1:]), jnp.diff(gray, axis=1, append=gray[:, -1:])
    return jnp.abs(down) + jnp.abs(across)


def make_quick(monkeypatch):
    """Let reports search a small grid of patches and share their programs; have a control in any registry."""
    tiny.share_programs(monkeypatch)
    if report.CONTROL not in METHODS:
        monkeypatch.setitem(METHODS, report.CONTROL, MethodSpec(edges, "Edge detector", "A control."))
    small = {"grid": (3, 3), "candidates": None, "max_size": 9}
    monkeypatch.setattr(report, "GraphSettings", lambda **options: GraphSettings(**small | options))


def explained(path, seed=0, **changes):
    """Report one photo."""
    settings = report.ReportSettings(**{"methods": ("gradient", report.CONTROL), "size": 4, "sag": False} | changes)
    program = report.compile_report(settings, tiny.tiny_model())
    photo = read_photo(tiny.write_photo(path, seed))
    return program, photo, report.report_photo(program, photo.rgb)
