"""What a command waits for before its first photo, and says so."""

from pathlib import Path

from jaxplain import zoo
from jaxplain.checks import check_choice
from jaxplain.cli import screen


def load_classifier(name: str, weights: Path | None = None) -> zoo.Classifier:
    """A classifier of the zoo.

    Raises:
      ValueError: unknown name, or weights that are not there or do not fit.
    """
    check_choice(name, zoo.MODELS, "model")
    with screen.waiting(f"loading {name}"):
        return zoo.load(name, weights=weights)
