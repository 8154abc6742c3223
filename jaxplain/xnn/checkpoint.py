"""Checkpoints of SRAEs and probes: safetensors files with the configuration in the header."""

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
from jaxplain.xnn.network import Probe
from jaxplain.xnn.srae import SRAE, SRAEConfig

FORMAT, PROBE_FORMAT = "jaxplain-srae-1", "jaxplain-probe-1"  # unchanged since jaxplain 0.1.0


class CheckpointError(ValueError):
    """Raised if a file is not a jaxplain checkpoint or is damaged; the message names the file and problem."""


def save(path: str | os.PathLike[str], srae: SRAE, about: Mapping[str, Any] | None = None) -> None:
    """Write an SRAE to a safetensors file, atomically.

    Args:
      path: the output file; its folder must exist.
      srae: a single network, not a batch of networks from a `vmap`.
      about: JSON-compatible metadata to save with the network, such as the class, the key or the model.

    Raises:
      OutputError: if the file cannot be written.
      ValueError: if `srae` is a batch of networks.

    Example:
      >>> srae = SRAE(SRAEConfig(features=8, widths=(4,), n_features=2), rngs=nnx.Rngs(0))
      >>> save("gull.safetensors", srae, {"class": "gull"})
      >>> load("gull.safetensors")[1]
      {'class': 'gull'}
    """
    arrays = {name: np.asarray(leaf) for name, leaf in _named(srae).items()}
    expected = _named(_blank(srae.config))
    if {name: leaf.shape for name, leaf in arrays.items()} != {n: leaf.shape for n, leaf in expected.items()}:
        raise ValueError(
            "the array shapes of srae do not match its configuration; "
            "save the networks of a vmapped fit one at a time."
        )
    header = {
        "format": FORMAT,
        "config": json.dumps(asdict(srae.config)),
        "about": json.dumps(dict(about or {}), allow_nan=False),
    }
    _write(path, arrays, header)


def load(path: str | os.PathLike[str]) -> tuple[SRAE, dict[str, Any]]:
    """Read an SRAE and the metadata saved with it.

    Raises:
      CheckpointError: if the file is missing, is damaged, has another format, or contains arrays that do not
        match its configuration.
    """
    path = Path(path)
    header, arrays = _read(path, FORMAT)
    try:
        config = SRAEConfig(**json.loads(header["config"]))
        about = json.loads(header["about"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a damaged configuration: {error}") from error
    return _restored(config, arrays, path), about


def save_probe(path: str | os.PathLike[str], probe: Probe) -> None:
    """Write a linear probe to a safetensors file, atomically.

    Raises:
      OutputError: if the file cannot be written.
    """
    arrays = {name: np.asarray(part) for name, part in probe._asdict().items()}
    _write(path, arrays, {"format": PROBE_FORMAT})


def load_probe(path: str | os.PathLike[str]) -> Probe:
    """Read a linear probe.

    Raises:
      CheckpointError: if the file is missing, is damaged or has another format.
    """
    _, arrays = _read(Path(path), PROBE_FORMAT)
    if set(arrays) != set(Probe._fields) or arrays["kernel"].shape[1:] != arrays["bias"].shape:
        raise CheckpointError(f"{path} does not contain a probe (kernel [D, K] and bias [K]).")
    return Probe(jnp.asarray(arrays["kernel"]), jnp.asarray(arrays["bias"]))


# safetensors is imported lazily: most users of jaxplain never need it.


def _write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], header: dict[str, str]) -> None:
    from safetensors.numpy import save as to_bytes

    write_atomic(path, to_bytes(arrays, header))


def _read(path: Path, expected: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the header and arrays of a safetensors file of the expected format."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the spelling, or save it first.") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a safetensors file: {error}") from error
    if header.get("format") != expected:
        raise CheckpointError(
            f"{path} was not written by this version of jaxplain: its format is {header.get('format')!r}, "
            f"expected {expected!r}."
        )
    return header, arrays


def _restored(config: SRAEConfig, arrays: dict[str, np.ndarray], path: Path) -> SRAE:
    blank = _blank(config)
    expected = _named(blank)
    if set(expected) != set(arrays):
        mismatched = sorted(set(expected) ^ set(arrays))
        raise CheckpointError(f"{path} does not match its configuration: {', '.join(mismatched[:3])}.")
    for name, leaf in expected.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            raise CheckpointError(
                f"{path}: {name} must be {leaf.dtype} {leaf.shape}, "
                f"got {arrays[name].dtype} {arrays[name].shape}."
            )
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{path}: {name} contains NaN or infinite values.")
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(blank), leaves)


def _blank(config: SRAEConfig) -> SRAE:
    """Return an abstract SRAE, with shapes only."""
    return nnx.eval_shape(lambda: SRAE(config, rngs=nnx.Rngs(0)))


def _named(srae: SRAE) -> dict[str, Any]:
    """Return the leaves keyed by their paths in the module, in order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(srae)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return {name.removesuffix(".value"): leaf for name, (_, leaf) in zip(names, leaves, strict=True)}
