"""What a run is made with: recorded in its results, and compared when it goes on."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import jaxplain
from jaxplain.batch.place import StoreError
from jaxplain.batch.program import Explain, Inputs
from jaxplain.batch.store import Leaf, ResultStore
from jaxplain.jobs.features import weights_digest
from jaxplain.jobs.records import plain


def run_config(
    explain: Explain, model: Any, inputs: Inputs, *, seed: int, dtype: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be the same for all rows of a store, as JSON can hold it."""
    return {
        "jaxplain": jaxplain.__version__,
        "explain": _named(explain),
        "model": str(getattr(model, "name", type(model).__name__)),
        "weights": weights_digest(model),
        "seed": seed,
        "dtype": dtype,
        "image": [list(inputs.shape), inputs.dtype],
        **plain(dict(settings)),
    }


def _named(explain: Any) -> Any:
    """A function's name, with the arguments of a `functools.partial` or the fields of a dataclass."""
    if isinstance(explain, partial):
        return {
            "function": _named(explain.func),
            "arguments": plain([*explain.args]),
            **plain(explain.keywords),
        }
    if is_dataclass(explain) and not isinstance(explain, type):
        values = {one.name: plain(getattr(explain, one.name)) for one in fields(explain)}
        return {"function": type(explain).__qualname__, **values}
    return getattr(explain, "__qualname__", type(explain).__qualname__)


def check_config(store: ResultStore, leaves: Mapping[str, Leaf], config: Mapping[str, Any]) -> None:
    """Refuse to add rows that were made otherwise.

    Raises:
      StoreError: names the first setting that differs, and both values.
    """
    check_settings(store, config)
    if dict(leaves) != store.leaves:
        raise StoreError(
            f"{store.path} holds {_listed(store.leaves)}, but this run makes {_listed(leaves)}: "
            "choose another place for the results."
        )


def check_settings(store: ResultStore, config: Mapping[str, Any]) -> None:
    """The part of `check_config` that needs no trace of the method.

    Raises:
      StoreError: names the first setting that differs, and both values.
    """
    wanted, found = _settings(json.loads(json.dumps(dict(config)))), _settings(store.config)
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            raise StoreError(
                f"{store.path} was made with {name} {found.get(name)!r}, not {wanted.get(name)!r}: "
                "choose another place for the results, or delete this one to start anew."
            )


def _settings(config: Any, name: str = "") -> dict[str, Any]:
    """A nested configuration as settings with names such as "explain.size"."""
    if not isinstance(config, dict):
        return {name: config}
    parts = (_settings(value, f"{name}.{key}" if name else key) for key, value in config.items())
    return {key: value for part in parts for key, value in part.items()}


def _listed(leaves: Mapping[str, Leaf]) -> str:
    return ", ".join(f"{name} {leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items())
