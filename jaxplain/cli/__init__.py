"""The command line: `app` defines the commands, `run` applies them to photos, `screen` prints."""

from jaxplain.cli.app import main as main
