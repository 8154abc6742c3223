"""Mask optimization: recipes that share one engine, and extremal perturbation."""

from jaxplain.masks.descent import BestStep as BestStep
from jaxplain.masks.descent import FixedStep as FixedStep
from jaxplain.masks.descent import LineSearch as LineSearch
from jaxplain.masks.descent import Nesterov as Nesterov
from jaxplain.masks.descent import Optax as Optax
from jaxplain.masks.engine import MaskDetails as MaskDetails
from jaxplain.masks.engine import MaskHistory as MaskHistory
from jaxplain.masks.extremal import ExtremalDetails as ExtremalDetails
from jaxplain.masks.extremal import ExtremalHistory as ExtremalHistory
from jaxplain.masks.extremal import extremal_perturbation as extremal_perturbation
from jaxplain.masks.recipes import ABLATIONS as ABLATIONS
from jaxplain.masks.recipes import PAPER as PAPER
from jaxplain.masks.recipes import diverse_init as diverse_init
from jaxplain.masks.recipes import igos as igos
from jaxplain.masks.recipes import igos_plus as igos_plus
from jaxplain.masks.recipes import igos_pp as igos_pp
from jaxplain.masks.recipes import meaningful_perturbation as meaningful_perturbation
