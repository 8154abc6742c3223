"""A name of `jaxplain.cli.run` at its old place; removed once all commands import it from there."""

from jaxplain.cli.run import load_classifier as load_classifier
