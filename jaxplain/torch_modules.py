"""PyTorch modules as classifiers: JAX calls PyTorch for the logits and for their gradients."""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def from_torch(module: Any) -> jax.tree_util.Partial:
    """Wrap a PyTorch classifier, so that methods that only call or differentiate a score can explain it.

    Compiled programs call PyTorch (`jax.pure_callback`) for the logits and for their gradients with respect
    to the images. Methods that need the network's feature maps (Grad-CAM, excitation backprop) refuse it. A
    network that is translated to JAX runs faster; see "PyTorch" in docs/howto/own_model.md.

    Args:
      module: a `torch.nn.Module` that maps images [N, C, H, W] to logits [N, K], or to an object or dict with
        these as `logits`; in evaluation mode, on any device, in any floating dtype. Each call uses the
        weights that the module has then.

    Returns:
      A classifier: images float32 [N, H, W, C] -> logits float32 [N, K].

    Raises:
      TypeError: not a `torch.nn.Module`. When called: the output is not an array of logits.
      ValueError: when called: the output's shape is not [N, K].

    Warns:
      UserWarning: a part of the module is in training mode.

    Example:
      >>> classifier = jx.from_torch(torch_module.eval())  # doctest: +SKIP
      >>> jx.igos_pp(jx.class_score(classifier, 281), image)  # doctest: +SKIP
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}.")
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        warnings.warn(
            f"the PyTorch module is in training mode (part {training[0]!r}): its logits may be random or "
            "depend on the other images of a batch. Call module.eval() first.",
            stacklevel=2,
        )
    return jax.tree_util.Partial(_TorchCall(module))


@dataclass(frozen=True)
class _TorchCall:
    """A PyTorch module as a function of JAX arrays. Equal to itself only: the module has an identity."""

    module: Any

    def __call__(self, images: Array) -> Array:
        return _logits(self, jnp.asarray(images, jnp.float32))

    def logits(self, images: Any) -> np.ndarray:
        """Return the logits [..., K] of images [..., H, W, C]."""
        import torch

        with torch.no_grad():
            logits = self._run(self._tensor(images))
        return _as_numpy(logits).reshape(*images.shape[:-3], -1)

    def gradient(self, images: Any, weights: Any) -> np.ndarray:
        """Return the gradient of the sum of weights x logits, both [..., K], with respect to the images."""
        import torch

        with torch.enable_grad():
            tensor = self._tensor(images).requires_grad_()
            logits = self._run(tensor)
            outputs = torch.from_numpy(np.array(weights)).reshape(logits.shape).to(logits)
            (gradient,) = torch.autograd.grad(logits, tensor, outputs, materialize_grads=True)
        return _as_numpy(gradient.movedim(1, -1)).reshape(images.shape)

    def _tensor(self, images: Any) -> Any:
        """Return images [..., H, W, C] as a tensor [N, C, H, W] on the module's device, in its dtype."""
        import torch

        tensor = torch.from_numpy(np.array(images)).reshape(-1, *images.shape[-3:]).movedim(-1, 1)
        parameters = (part for part in self.module.parameters() if part.is_floating_point())
        parameter = next(parameters, tensor)
        return tensor.to(parameter.device, parameter.dtype).detach()

    def _run(self, tensor: Any) -> Any:
        import torch

        output = self.module(tensor)
        logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", output)
        if not isinstance(logits, torch.Tensor):
            raise TypeError(
                f"the PyTorch module returns a {type(output).__name__}, not logits: wrap it in a module "
                "whose forward(self, images) returns only the logits, for example self.model(images)[0]."
            )
        if logits.ndim != 2 or len(logits) != len(tensor):
            raise ValueError(
                f"the PyTorch module must map images {tuple(tensor.shape)} to logits [{len(tensor)}, K], got "
                f"shape {tuple(logits.shape)}."
            )
        return logits


def _as_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logits(call: _TorchCall, images: Array) -> Array:
    n_classes = call.logits(np.zeros((1, *images.shape[1:]), np.float32)).shape[-1]
    shape = jax.ShapeDtypeStruct((images.shape[0], n_classes), jnp.float32)
    return jax.pure_callback(call.logits, shape, images, vmap_method="broadcast_all")


def _logits_forward(call: _TorchCall, images: Array) -> tuple[Array, Array]:
    return _logits(call, images), images


def _logits_backward(call: _TorchCall, images: Array, weights: Array) -> tuple[Array]:
    shape = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    return (jax.pure_callback(call.gradient, shape, images, weights, vmap_method="broadcast_all"),)


_logits.defvjp(_logits_forward, _logits_backward)
