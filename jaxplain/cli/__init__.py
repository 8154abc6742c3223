"""The command line: `app` registers the commands, `run` applies them to photos, `screen` prints."""

from jaxplain.cli.app import main as main
