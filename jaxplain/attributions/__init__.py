"""Attribution methods that tables compare with: gradients, Grad-CAM, RISE, occlusion.

All explain one image; a batch is a `jax.vmap`.
"""

from collections.abc import Callable

from jaxplain.attributions.cam import grad_cam as grad_cam
from jaxplain.attributions.cam import grad_cam_pp as grad_cam_pp
from jaxplain.attributions.excitation import excitation as excitation
from jaxplain.attributions.excitation import excitation_backprop as excitation_backprop
from jaxplain.attributions.gradients import gradient as gradient
from jaxplain.attributions.gradients import input_x_gradient as input_x_gradient
from jaxplain.attributions.integrated import integrated_gradients as integrated_gradients
from jaxplain.attributions.occlusion import occlusion as occlusion
from jaxplain.attributions.parts import MapClassifier as MapClassifier
from jaxplain.attributions.result import Attribution as Attribution
from jaxplain.attributions.result import Reduce as Reduce
from jaxplain.attributions.result import Status as Status
from jaxplain.attributions.result import reduce_channels as reduce_channels
from jaxplain.attributions.rise import rise as rise
from jaxplain.attributions.rise import rise_masks as rise_masks
from jaxplain.attributions.smooth import smooth_grad as smooth_grad
from jaxplain.attributions.smooth import var_grad as var_grad

METHODS: dict[str, Callable[..., Attribution]] = {
    "gradient": gradient,
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": integrated_gradients,
    "smooth_grad": smooth_grad,
    "var_grad": var_grad,
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "rise": rise,
    "occlusion": occlusion,
    "excitation_backprop": excitation_backprop,
}
"""By name. The two Grad-CAMs and excitation backprop take a classifier and a target, all others a score."""
