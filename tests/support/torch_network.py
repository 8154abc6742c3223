"""A PyTorch network and the same in JAX. Import it inside a test: the fast tests run without PyTorch."""

import jax.numpy as jnp
import numpy as np
import torch


class Network(torch.nn.Module):
    """tanh(images @ first) @ second, with what is done to the logits as a function."""

    def __init__(self, wrap):
        super().__init__()
        random = np.random.default_rng(1)
        self.first = torch.nn.Parameter(torch.from_numpy(random.standard_normal((432, 6)) / 12).float())
        self.second = torch.nn.Parameter(torch.from_numpy(random.standard_normal((6, 4))).float())
        self.wrap = wrap
        self.eval()

    def forward(self, images):
        pixels = images.movedim(1, -1).reshape(len(images), -1)  # channels last, as in `same_in_jax`
        return self.wrap(torch.tanh(pixels @ self.first) @ self.second)


def same_in_jax(network):
    first, second = (jnp.asarray(weights.detach().numpy()) for weights in (network.first, network.second))
    return lambda images: jnp.tanh(images.reshape(len(images), -1) @ first) @ second
