"""jaxplain: explain the predictions of image classifiers.

A *score* is a callable pytree that maps images to numbers; every explanation is a pure function of a score.
Importing this package initializes no device.
"""

from jaxplain import attributions as attributions
from jaxplain import masks as masks
from jaxplain import metrics as metrics
from jaxplain import paths as paths
from jaxplain import sag as sag
from jaxplain import xnn as xnn
from jaxplain import zoo as zoo
from jaxplain.explanation import Explanation as Explanation
from jaxplain.explanation import Status as Status
from jaxplain.images import load_image as load_image
from jaxplain.masks import diverse_init as diverse_init
from jaxplain.masks import igos as igos
from jaxplain.masks import igos_plus as igos_plus
from jaxplain.masks import igos_pp as igos_pp
from jaxplain.metrics import Curves as Curves
from jaxplain.metrics import insertion_deletion as insertion_deletion
from jaxplain.perturb import baseline as baseline
from jaxplain.perturb import blur_baseline as blur_baseline
from jaxplain.perturb import constant_baseline as constant_baseline
from jaxplain.perturb import mean_baseline as mean_baseline
from jaxplain.perturb import noise_baseline as noise_baseline
from jaxplain.perturb import upsample as upsample
from jaxplain.precision import lower_precision as lower_precision
from jaxplain.precision import rematerialize as rematerialize
from jaxplain.scores import ClassScore as ClassScore
from jaxplain.scores import class_score as class_score
from jaxplain.scores import top_class as top_class
from jaxplain.torch_modules import from_torch as from_torch

__version__ = "0.2.0"
