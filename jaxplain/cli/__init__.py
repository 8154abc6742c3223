"""The command line: `app` has the commands, `run` takes them over many photos, `screen` talks to people."""

from jaxplain.cli.app import main as main
