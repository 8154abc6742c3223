"""Metrics for explanations: curves, confidence, localization, stability, sanity, similarity, complexity.

Metrics that evaluate a map are called as `metric(score, image, baseline, importance, ...)`. Metrics that
evaluate a method are called as `metric(score, image, baseline, explain, ...)`, where `explain` is a built-in
method or a custom function `(score, image, baseline, *, key)`. If `baseline` is None, the former use the
blurred image and the latter the method's own default.
"""

from jaxplain.metrics.causal import Curves as Curves
from jaxplain.metrics.causal import adversarial_rise as adversarial_rise
from jaxplain.metrics.causal import insertion_deletion as insertion_deletion
from jaxplain.metrics.complexity import gini as gini
from jaxplain.metrics.confidence import Confidence as Confidence
from jaxplain.metrics.confidence import average_drop as average_drop
from jaxplain.metrics.confidence import confidence_on_explanation as confidence_on_explanation
from jaxplain.metrics.confidence import increase_in_confidence as increase_in_confidence
from jaxplain.metrics.localization import box_mask as box_mask
from jaxplain.metrics.localization import energy_pointing_game as energy_pointing_game
from jaxplain.metrics.localization import pointing_game as pointing_game
from jaxplain.metrics.parameter_layers import layer_names as layer_names
from jaxplain.metrics.sanity import AdversarialCheck as AdversarialCheck
from jaxplain.metrics.sanity import AdversarialPhoto as AdversarialPhoto
from jaxplain.metrics.sanity import ParameterRandomization as ParameterRandomization
from jaxplain.metrics.sanity import Randomized as Randomized
from jaxplain.metrics.sanity import adversarial_check as adversarial_check
from jaxplain.metrics.sanity import adversarial_photo as adversarial_photo
from jaxplain.metrics.sanity import parameter_randomization as parameter_randomization
from jaxplain.metrics.sanity import randomize as randomize
from jaxplain.metrics.sanity import target_randomization as target_randomization
from jaxplain.metrics.similarity import Similarity as Similarity
from jaxplain.metrics.similarity import compare_maps as compare_maps
from jaxplain.metrics.similarity import rank_correlation as rank_correlation
from jaxplain.metrics.similarity import ssim as ssim
from jaxplain.metrics.stability import Infidelity as Infidelity
from jaxplain.metrics.stability import Sensitivity as Sensitivity
from jaxplain.metrics.stability import infidelity as infidelity
from jaxplain.metrics.stability import max_sensitivity as max_sensitivity
