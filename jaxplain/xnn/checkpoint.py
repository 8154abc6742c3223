"""SRAEs and probes in files: safetensors with the exact configuration beside the numbers."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxplain.files import write_atomic
from jaxplain.xnn.probe import Probe
from jaxplain.xnn.srae import SRAE, SRAEConfig

FORMAT, PROBE_FORMAT = "jaxplain-srae-1", "jaxplain-probe-1"


class CheckpointError(ValueError):
    """A file that is no SRAE of ours, or a damaged one. The message names the file and what is wrong."""


def save(path: str | os.PathLike[str], srae: SRAE, about: Mapping[str, Any] | None = None) -> None:
    """Write an SRAE into a safetensors file, whole or not at all.

    Args:
      path: of the file; its folder must exist.
      srae: one network, not a stack of them from a `vmap`.
      about: what else to keep, as JSON can hold it: the class, the key, the model it belongs to.

    Raises:
      OutputError: the file cannot be written.
      ValueError: a stack of networks.

    Example:
      >>> srae = SRAE(SRAEConfig(features=8, widths=(4,), n_features=2), rngs=nnx.Rngs(0))
      >>> save("gull.safetensors", srae, {"class": "gull"})
      >>> load("gull.safetensors")[1]
      {'class': 'gull'}
    """
    numbers = {name: np.asarray(leaf) for name, leaf in _named(srae).items()}
    wanted = _named(_blank(srae.config))
    if {name: leaf.shape for name, leaf in numbers.items()} != {n: leaf.shape for n, leaf in wanted.items()}:
        raise ValueError(
            "srae has not the shapes of its configuration: of a vmapped fit, save one row at a time."
        )
    header = {
        "format": FORMAT,
        "config": json.dumps(asdict(srae.config)),
        "about": json.dumps(dict(about or {}), allow_nan=False),
    }
    _write(path, numbers, header)


def load(path: str | os.PathLike[str]) -> tuple[SRAE, dict[str, Any]]:
    """Read an SRAE and what was kept beside it.

    Raises:
      CheckpointError: no file, a damaged one, one of something else, or numbers that do not fit the
        configuration.
    """
    path = Path(path)
    header, numbers = _read(path, FORMAT)
    try:
        config = SRAEConfig(**json.loads(header["config"]))
        about = json.loads(header["about"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a damaged configuration: {error}") from error
    return _filled(config, numbers, path), about


def save_probe(path: str | os.PathLike[str], probe: Probe) -> None:
    """Write a linear probe into a safetensors file, whole or not at all.

    Raises:
      OutputError: the file cannot be written.
    """
    numbers = {name: np.asarray(part) for name, part in probe._asdict().items()}
    _write(path, numbers, {"format": PROBE_FORMAT})


def load_probe(path: str | os.PathLike[str]) -> Probe:
    """Read a linear probe.

    Raises:
      CheckpointError: no file, a damaged one, or one of something else.
    """
    _, numbers = _read(Path(path), PROBE_FORMAT)
    if set(numbers) != set(Probe._fields) or numbers["kernel"].shape[1:] != numbers["bias"].shape:
        raise CheckpointError(f"{path} holds no probe: it needs kernel [D, K] and bias [K].")
    return Probe(jnp.asarray(numbers["kernel"]), jnp.asarray(numbers["bias"]))


# safetensors is imported where it is needed: most who import jaxplain never do.


def _write(path: str | os.PathLike[str], numbers: dict[str, np.ndarray], header: dict[str, str]) -> None:
    from safetensors.numpy import save as to_bytes

    write_atomic(path, to_bytes(numbers, header))


def _read(path: Path, wanted: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Header and arrays of a safetensors file of a format of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            numbers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the spelling, or save it first.") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}") from error
    if header.get("format") != wanted:
        raise CheckpointError(
            f"{path} was not written by this version of jaxplain: its format is {header.get('format')!r}, "
            f"expected {wanted!r}."
        )
    return header, numbers


def _filled(config: SRAEConfig, numbers: dict[str, np.ndarray], path: Path) -> SRAE:
    blank = _blank(config)
    wanted = _named(blank)
    if set(wanted) != set(numbers):
        odd = sorted(set(wanted) ^ set(numbers))
        raise CheckpointError(f"{path} does not fit its configuration: {', '.join(odd[:3])}.")
    for name, leaf in wanted.items():
        if numbers[name].shape != leaf.shape or numbers[name].dtype != leaf.dtype:
            raise CheckpointError(
                f"{path}: {name} must be {leaf.dtype} {leaf.shape}, "
                f"got {numbers[name].dtype} {numbers[name].shape}."
            )
        if not np.isfinite(numbers[name]).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite values.")
    leaves = [jnp.asarray(numbers[name]) for name in wanted]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(blank), leaves)


def _blank(config: SRAEConfig) -> SRAE:
    """Shapes only."""
    return nnx.eval_shape(lambda: SRAE(config, rngs=nnx.Rngs(0)))


def _named(srae: SRAE) -> dict[str, Any]:
    """Leaves by the names of their places, in order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(srae)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return {name.removesuffix(".value"): leaf for name, (_, leaf) in zip(names, leaves, strict=True)}
