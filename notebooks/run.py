"""Execute the notebooks: `python notebooks/run.py` writes their outputs, `--quick` only tries them.

In quick mode, which CI runs, the notebooks see JAXPLAIN_QUICK in their environment and take fewer steps and
images; nothing is written. `pip install -e ".[notebooks]"` first.
"""

import argparse
import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

FOLDER = Path(__file__).parent
MINUTES = 30  # for one cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main(arguments: list[str] | None = None) -> int:
    """Run the given notebooks, or all; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="files; default: all of this folder")
    parser.add_argument("--quick", action="store_true", help="few steps, nothing written")
    given = parser.parse_args(arguments)
    if given.quick:
        os.environ["JAXPLAIN_QUICK"] = "1"
    else:
        os.environ.pop("JAXPLAIN_QUICK", None)
    failed = [
        path for path in given.notebooks or sorted(FOLDER.glob("*.ipynb")) if not run(path, given.quick)
    ]
    return bool(failed)


def run(path: Path, quick: bool) -> bool:
    """Execute one notebook and print how long it took; write its outputs unless this is a quick run."""
    notebook, start = nbformat.read(path, as_version=4), time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=60 * MINUTES,
        kernel_name="python3",
        extra_arguments=["--log-level=40"],  # errors only
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{path.name}: failed\n{error}", file=sys.stderr, flush=True)
        return False
    print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    if not quick:
        keep_small(notebook)
        nbformat.write(notebook, path)
    return True


def keep_small(notebook: nbformat.NotebookNode) -> None:
    """Convert pictures to JPEG, a fifth of the size of PNG, and remove facts about this machine."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/jpeg"] = jpeg(data.pop("image/png"))
                output["metadata"] = nbformat.from_dict({})


def jpeg(png: str) -> str:
    """Convert a picture in Base64 from PNG to JPEG."""
    written = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        Image.alpha_composite(paper, picture).convert("RGB").save(written, "JPEG", quality=85)
    return base64.b64encode(written.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
