"""Programs are compiled quickly, and once for all tests of this folder."""

import jax
import pytest
from support import tiny


@pytest.fixture(autouse=True, scope="module")
def quick_programs(request, strict_and_quick):
    """Compile without most optimizations, in half the time; the slow tests of real weights do not care.

    Not where results of other processes, which compile as users do, must agree to the last bit.
    """
    quick = request.path.stem != "test_batch_processes"
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch):
    tiny.share_programs(monkeypatch)
    yield
    tiny.forget_programs()
