"""Pictures of explanations: coloured heatmaps, overlays, curves, one-row panels (NumPy and Pillow only)."""

from jaxplain.render.colormap import colorize, display_range, normalize, symmetric_range
from jaxplain.render.contact import contact_sheet
from jaxplain.render.curves import Curve, draw_curves
from jaxplain.render.graph import graph_page, graph_png, graph_svg, masked_photo
from jaxplain.render.lines import Line, draw_lines
from jaxplain.render.overlay import heatmap, overlay
from jaxplain.render.panel import panel
from jaxplain.render.png import to_png
from jaxplain.render.report import report_page, report_section
from jaxplain.render.shares import draw_shares
from jaxplain.render.sheet import Bar, Row, Sheet, Tile, sheet_png, sheets_page

__all__ = [
    "Bar",
    "Curve",
    "Line",
    "Row",
    "Sheet",
    "Tile",
    "colorize",
    "contact_sheet",
    "display_range",
    "draw_curves",
    "draw_lines",
    "draw_shares",
    "graph_page",
    "graph_png",
    "graph_svg",
    "heatmap",
    "masked_photo",
    "normalize",
    "overlay",
    "panel",
    "report_page",
    "report_section",
    "sheet_png",
    "sheets_page",
    "symmetric_range",
    "to_png",
]
