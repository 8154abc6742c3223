"""What is the same for all rows of a comparison."""

from dataclasses import dataclass
from typing import Any

import jaxplain
from jaxplain.checks import check_choice, check_positive_int
from jaxplain.compare.measures import DEFAULT_MEASURES, MEASURES
from jaxplain.jobs.photos import check_seed
from jaxplain.perturb import BASELINES


@dataclass(frozen=True)
class Settings:
    """What is the same for all rows of a comparison.

    Raises:
      ValueError, TypeError: an unknown name (says which come nearest) or a number that cannot be.
    """

    measures: tuple[str, ...] = DEFAULT_MEASURES
    baseline: str = "blur"
    seed: int = 0
    curve_steps: int = 50

    def __post_init__(self) -> None:
        for name in self.measures:
            check_choice(name, MEASURES, "measure")
        check_choice(self.baseline, BASELINES, "baseline")
        check_seed(self.seed)
        check_positive_int(self.curve_steps, "curve_steps")

    def record(self) -> dict[str, Any]:
        """As the file of rows holds it."""
        return {
            "jaxplain": jaxplain.__version__,
            "measures": list(self.measures),
            "baseline": self.baseline,
            "seed": self.seed,
            "curve_steps": self.curve_steps,
        }
