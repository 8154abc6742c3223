"""Programs are compiled quickly, and once for all tests of this folder."""

import jax
import pytest
from support import tiny


@pytest.fixture(autouse=True, scope="module")
def quick_programs(strict_and_quick):
    """Compile without most optimizations, in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch):
    tiny.share_programs(monkeypatch)
    yield
    tiny.forget_programs()
