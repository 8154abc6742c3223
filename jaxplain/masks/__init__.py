"""Mask optimisation: an engine (engine, objective, penalties, descent), its recipes and their settings."""

from jaxplain.masks.ablations import ABLATIONS as ABLATIONS
from jaxplain.masks.descent import BestStep as BestStep
from jaxplain.masks.descent import FixedStep as FixedStep
from jaxplain.masks.descent import LineSearch as LineSearch
from jaxplain.masks.descent import Nesterov as Nesterov
from jaxplain.masks.descent import Optax as Optax
from jaxplain.masks.engine import Heatmap as Heatmap
from jaxplain.masks.engine import History as History
from jaxplain.masks.engine import Status as Status
from jaxplain.masks.extremal import ExtremalHistory as ExtremalHistory
from jaxplain.masks.extremal import ExtremalMasks as ExtremalMasks
from jaxplain.masks.extremal import extremal_perturbation as extremal_perturbation
from jaxplain.masks.meaningful import meaningful_perturbation as meaningful_perturbation
from jaxplain.masks.recipes import METHODS as METHODS
from jaxplain.masks.recipes import diverse_init as diverse_init
from jaxplain.masks.recipes import igos as igos
from jaxplain.masks.recipes import igos_plus as igos_plus
from jaxplain.masks.recipes import igos_pp as igos_pp
from jaxplain.masks.settings import PRESETS as PRESETS
from jaxplain.masks.settings import Options as Options
from jaxplain.masks.settings import Settings as Settings
from jaxplain.masks.settings import parameters as parameters
