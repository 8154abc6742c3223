"""Quick reports of the toy classifier."""

from jaxplain.runs import report_runs as report
from jaxplain.runs.graph_runs import GraphSettings
from jaxplain.runs.photos import read_photo
from support import tiny


def make_quick(monkeypatch):
    """Let reports search a small grid of patches."""
    small = {"grid": (3, 3), "candidates": None, "max_size": 9}
    monkeypatch.setattr(report, "GraphSettings", lambda **options: GraphSettings(**small | options))


def explained(path, seed=0, **changes):
    """Report one photo."""
    settings = report.ReportSettings(
        **{"methods": ("gradient", report.CONTROL), "size": 4, "sag": False} | changes
    )
    program = report.compile_report(settings, tiny.tiny_model())
    photo = read_photo(tiny.write_photo(path, seed))
    return program, photo, report.report_photo(program, photo.rgb)
