"""Attribution methods that tables compare with: gradients, Grad-CAM, RISE, occlusion.

All explain one image; a batch is a `jax.vmap`.
"""

from collections.abc import Callable

from jaxplain.attributions.cam import MapClassifier as MapClassifier
from jaxplain.attributions.cam import grad_cam as grad_cam
from jaxplain.attributions.cam import grad_cam_pp as grad_cam_pp
from jaxplain.attributions.gradients import gradient as gradient
from jaxplain.attributions.gradients import input_x_gradient as input_x_gradient
from jaxplain.attributions.gradients import integrated_gradients as integrated_gradients
from jaxplain.attributions.gradients import smooth_grad as smooth_grad
from jaxplain.attributions.gradients import var_grad as var_grad
from jaxplain.attributions.masking import occlusion as occlusion
from jaxplain.attributions.masking import rise as rise
from jaxplain.attributions.masking import rise_masks as rise_masks
from jaxplain.attributions.result import Attribution as Attribution
from jaxplain.attributions.result import Reduce as Reduce
from jaxplain.attributions.result import Status as Status
from jaxplain.attributions.result import reduce_channels as reduce_channels

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
}
"""By name. The two Grad-CAMs take a classifier and a target, all others a score."""
