"""Names of `jaxplain.cli.run` at their old place; removed once all commands import them from there."""

from jaxplain.cli.run import FAILED as FAILED
from jaxplain.cli.run import INTERRUPTED as INTERRUPTED
from jaxplain.cli.run import LEFT as LEFT
from jaxplain.cli.run import WRONG as WRONG
from jaxplain.cli.run import clear_errors as clear_errors
from jaxplain.cli.run import display_names as display_names
from jaxplain.cli.run import end_interrupted as end_interrupted
from jaxplain.cli.run import finish as finish
from jaxplain.cli.run import table as table
