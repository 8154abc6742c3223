"""Explanation sheets: one row an x-feature, with bars of what it contributes and pictures of what it sees."""

from jaxplain.render.sheet.page import sheets_page as sheets_page
from jaxplain.render.sheet.parts import Bar as Bar
from jaxplain.render.sheet.parts import Row as Row
from jaxplain.render.sheet.parts import Sheet as Sheet
from jaxplain.render.sheet.parts import Tile as Tile
from jaxplain.render.sheet.picture import sheet_png as sheet_png
