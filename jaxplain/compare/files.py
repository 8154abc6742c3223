"""A comparison on disk: everything beside the name that `--out` gives."""

from collections.abc import Sequence
from pathlib import Path

from jaxplain import render
from jaxplain.compare import pictures, tables
from jaxplain.compare.rows import MapFolder, RowFile
from jaxplain.compare.run import Comparison
from jaxplain.compare.settings import Settings
from jaxplain.files import check_writable, write_atomic
from jaxplain.zoo import Classifier

SUFFIXES = (".md", ".csv", ".json")


def stem(out: Path) -> Path:
    """The name that all files of a comparison begin with; a suffix of the tables is left out.

    Example:
      >>> stem(Path("results/table.md")).name, stem(Path("table")).name
      ('table', 'table')
    """
    return out.with_suffix("") if out.suffix.lower() in SUFFIXES else out


def beside(out: Path, ending: str) -> Path:
    """A file of the comparison."""
    return stem(out).with_name(stem(out).name + ending)


def open_rows(out: Path, settings: Settings) -> tuple[RowFile, MapFolder]:
    """The rows and maps of a comparison, those of an earlier run that stopped among them.

    Raises:
      OutputError: the folder cannot be written.
      ValueError: the rows are another run's.
    """
    check_writable(stem(out).parent)
    return RowFile(beside(out, "-rows.jsonl"), settings.record()), MapFolder(beside(out, "-maps"))


def write(out: Path, found: Comparison, classifiers: Sequence[Classifier]) -> list[Path]:
    """Write tables and pictures; returns what was written.

    NAME.md, NAME.csv, NAME.json, NAME-photos.csv, and for each size NAME-sheet-SIZE.png and
    NAME-curves-SIZE.png (with the model's name where there are several).

    Raises:
      OutputError: a file cannot be written.
    """
    texts = {
        ".md": tables.markdown(found),
        ".csv": tables.summary_csv(found),
        ".json": tables.to_json(found),
        "-photos.csv": tables.photos_csv(found),
    }
    contents = {ending: text.encode() for ending, text in texts.items()}
    for (model, size), name in pictures.names(classifiers, found.sizes).items():
        classifier = next(one for one in classifiers if one.name == model)
        drawn = {
            f"-sheet-{name}.png": pictures.contact_sheet(found, classifier, size),
            f"-curves-{name}.png": pictures.curves(found, model, size),
        }
        contents |= {ending: render.to_png(one) for ending, one in drawn.items() if one is not None}
    paths = []
    for ending, content in contents.items():
        write_atomic(beside(out, ending), content)
        paths.append(beside(out, ending))
    return paths
