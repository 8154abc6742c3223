"""Attribution methods: gradients, Grad-CAM, excitation backprop, RISE, occlusion, and controls.

Each method explains one image and returns an `Explanation`; use `jax.vmap` for a batch. All methods except
the controls are differentiable with respect to the image and the score's parameters.
"""

from jaxplain.attributions.cam import MapClassifier as MapClassifier
from jaxplain.attributions.cam import grad_cam as grad_cam
from jaxplain.attributions.cam import grad_cam_pp as grad_cam_pp
from jaxplain.attributions.controls import edges as edges
from jaxplain.attributions.controls import random_map as random_map
from jaxplain.attributions.excitation import (
    contrastive_excitation_backprop as contrastive_excitation_backprop,
)
from jaxplain.attributions.excitation import excitation_backprop as excitation_backprop
from jaxplain.attributions.excitation import winning_probabilities as winning_probabilities
from jaxplain.attributions.gradients import AttributionDetails as AttributionDetails
from jaxplain.attributions.gradients import Reduce as Reduce
from jaxplain.attributions.gradients import gradient as gradient
from jaxplain.attributions.gradients import input_x_gradient as input_x_gradient
from jaxplain.attributions.gradients import reduce_channels as reduce_channels
from jaxplain.attributions.gradients import smooth_grad as smooth_grad
from jaxplain.attributions.gradients import var_grad as var_grad
from jaxplain.attributions.integrated import IntegratedDetails as IntegratedDetails
from jaxplain.attributions.integrated import integrated_gradients as integrated_gradients
from jaxplain.attributions.sampling import occlusion as occlusion
from jaxplain.attributions.sampling import rise as rise
from jaxplain.attributions.sampling import rise_masks as rise_masks
