"""Comparisons: methods x measures x sizes on a folder of photos, in one table that anyone can make again."""

from jaxplain.compare.files import open_rows as open_rows
from jaxplain.compare.files import write as write
from jaxplain.compare.measures import DEFAULT_MEASURES as DEFAULT_MEASURES
from jaxplain.compare.measures import MEASURES as MEASURES
from jaxplain.compare.measures import Evidence as Evidence
from jaxplain.compare.measures import Measure as Measure
from jaxplain.compare.methods import DEFAULT_METHODS as DEFAULT_METHODS
from jaxplain.compare.methods import METHODS as METHODS
from jaxplain.compare.methods import Method as Method
from jaxplain.compare.methods import choose_methods as choose_methods
from jaxplain.compare.rows import FAILED as FAILED
from jaxplain.compare.rows import OK as OK
from jaxplain.compare.rows import MapFolder as MapFolder
from jaxplain.compare.rows import Row as Row
from jaxplain.compare.rows import RowFile as RowFile
from jaxplain.compare.run import Comparison as Comparison
from jaxplain.compare.run import compare as compare
from jaxplain.compare.settings import Settings as Settings
from jaxplain.compare.summary import Interval as Interval
from jaxplain.compare.summary import Summary as Summary
from jaxplain.compare.summary import bootstrap as bootstrap
from jaxplain.compare.summary import difference as difference
from jaxplain.compare.summary import summarize as summarize
