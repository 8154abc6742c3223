"""Several processes, on one machine or many: JAX's own runtime joins them; each explains its share.

A share is a set of the store's chunks, so that no two processes ever write to one file.
"""

import jax
from jax.experimental import multihost_utils

from jaxplain.batch.store import ResultStore

_LONGEST_WAIT = 7 * 24 * 3600  # seconds that a process which is done waits for the others before it ends


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the processes of a run; call it before anything else touches a device.

    Args:
      coordinator: "host:port" of process 0; None asks the environment (SLURM, Open MPI, Cloud TPU, GKE).
      processes: how many there are; None asks the environment.
      process: which of them this one is, from 0; None asks the environment.

    Raises:
      ValueError: only some are given, or the environment does not say.
      RuntimeError: the others could not be reached, or devices were used before.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise ValueError(
            "coordinator, processes and process go together: give all three, or leave all to the environment."
        )
    _check_given(coordinator, processes, process)
    jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=_LONGEST_WAIT)


def _check_given(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """JAX would say it in riddles, or wait for ever."""
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator must be host:port, such as 10.0.0.1:1234, got {coordinator!r}.")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(
            f"process must be in 0..{processes - 1}, one of {processes} processes, got {process}."
        )


def first() -> bool:
    """Is this the process that makes the store?"""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def own_chunks(store: ResultStore) -> range:
    """The chunks of this process: every n-th, so that what a restart finds pending is shared evenly."""
    return store.chunks[jax.process_index() :: jax.process_count()]
