"""Reports: one page with everything about a photo, or several."""

from jaxplain.render.report.elements import written as written
from jaxplain.render.report.page import report_page as report_page
from jaxplain.render.report.page import report_section as report_section
from jaxplain.render.report.parts import Card as Card
from jaxplain.render.report.parts import Check as Check
from jaxplain.render.report.parts import Choice as Choice
from jaxplain.render.report.parts import Figures as Figures
from jaxplain.render.report.parts import Graph as Graph
from jaxplain.render.report.parts import Picture as Picture
from jaxplain.render.report.parts import Report as Report
from jaxplain.render.report.parts import Root as Root
from jaxplain.render.report.parts import Section as Section
