"""The command line: `app` has the commands, `run` takes them over many photos, `screen` shows messages."""

from jaxplain.cli.app import main as main
