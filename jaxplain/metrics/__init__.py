"""Measures of explanations."""

from jaxplain.metrics.causal import Curves as Curves
from jaxplain.metrics.causal import insertion_deletion as insertion_deletion
