"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from jaxplain import zoo
from jaxplain.masks import METHODS

Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE", help="Photos: JPEG, PNG, WebP, TIFF, ...", show_default=False),
]
Model = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(zoo.model_names())}.")]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="PyTorch or safetensors file; needed where no package ships weights."),
]
Method = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(METHODS)}.")]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the results, one sub-folder a photo.")
]


def split_names(text: str, option: str) -> list[str]:
    """The names in "A,B,...".

    Raises:
      ValueError: there is none; says of which option.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"--{option} must name at least one, got {text!r}.")
    return parts
