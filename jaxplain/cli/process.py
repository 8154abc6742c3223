"""The process of a command: its signals, how it ends, what JAX says and where it keeps compiled programs."""

import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import jax

from jaxplain.files import OutputError, check_writable


def end_as_by_ctrl_c() -> list[int]:
    """SIGTERM ends a command as Ctrl-C does; the list has the signal once it came."""
    asked: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        asked.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    return asked


def leave_at_once(status: int) -> NoReturn:
    """End the process although a thread still computes; Python's own way out would wait for it or abort."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def quiet_jax() -> None:
    """JAX's warnings are for programmers, who get them by JAX_LOGGING_LEVEL and `python -W`."""
    if "JAX_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("jax").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"jax\b")


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in JAX's own setting or ours; without one where it cannot be."""
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen == "" or "://" in (chosen or ""):
        return
    try:
        folder = check_writable(chosen or _cache_home() / "jaxplain" / "jax")
    except (OutputError, RuntimeError):  # RuntimeError: no home
        jax.config.update("jax_compilation_cache_dir", None)
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
