"""Drawings of attention graphs: SVG, PNG and an HTML page, all of one layout."""

from jaxplain.render.graph.layout import Layout as Layout
from jaxplain.render.graph.layout import layout as layout
from jaxplain.render.graph.page import graph_page as graph_page
from jaxplain.render.graph.patches import masked_photo as masked_photo
from jaxplain.render.graph.patches import outlines as outlines
from jaxplain.render.graph.picture import graph_png as graph_png
from jaxplain.render.graph.svg import graph_svg as graph_svg
