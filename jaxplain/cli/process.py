"""Process-level behavior of a command: signals, exit, JAX warnings and the compilation cache."""

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
    """Make SIGTERM act like Ctrl-C; return a list to which the signal's number is appended."""
    signals: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        signals.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    return signals


def leave_at_once(status: int) -> NoReturn:
    """Exit while a thread is still computing; a normal exit would wait for the thread or abort."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def quiet_jax() -> None:
    """Hide JAX's warnings, meant for developers, unless JAX_LOGGING_LEVEL or `python -W` is set."""
    if "JAX_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("jax").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"jax\b")


def use_compilation_cache() -> None:
    """Cache compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen == "" or "://" in (chosen or ""):
        return
    try:
        folder = check_writable(chosen or _cache_home() / "jaxplain" / "jax")
    except (OutputError, RuntimeError):  # RuntimeError: no home folder
        jax.config.update("jax_compilation_cache_dir", None)
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
