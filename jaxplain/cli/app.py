"""Entry point of the `jaxplain` command; registers the commands defined in the other modules."""

import os
import sys
from typing import Annotated, NoReturn

import jax
import typer

import jaxplain
from jaxplain.cli import (
    batch_commands,
    compare_commands,
    explain_commands,
    process,
    report_commands,
    sag_commands,
    screen,
    xnn_commands,
)
from jaxplain.cli.options import CLOSER, examples, help_from_docstrings
from jaxplain.cli.run import DEBUG, INTERRUPTED, WRONG

app = typer.Typer(
    help="Explain the predictions of image classifiers.",
    epilog=examples(
        "jaxplain demo", "jaxplain predict cat.jpg", "jaxplain explain cat.jpg", "jaxplain explain -h"
    )
    + "\n\nTry these in order; the first needs no photo. Run any command with -h to list its options.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run the `jaxplain` command."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if the parent process closed it
        stream.reconfigure(errors="backslashreplace")
    process.quiet_jax()
    screen.show_warnings()
    process.use_compilation_cache()
    signals = process.end_as_by_ctrl_c()
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            process.leave_at_once(128 + signals[-1] if signals else INTERRUPTED)
        raise
    except OSError as error:  # raised while printing; errors from writing results are handled elsewhere
        if os.environ.get(DEBUG):
            raise
        screen.say(
            f"cannot write the output: {error.strerror or error}. Redirect it elsewhere.", "error", "red"
        )
        process.leave_at_once(WRONG)
    sys.exit()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"jaxplain {jaxplain.__version__} (jax {jax.__version__})")
        raise typer.Exit


# In the order shown in the help; each group of commands appears where its first command is registered.
for part in (explain_commands, report_commands, sag_commands, compare_commands, batch_commands):
    app.registered_commands += part.app.registered_commands
app.add_typer(xnn_commands.app, name="xnn", rich_help_panel=CLOSER)
help_from_docstrings(app)
