"""Settings of the whole test process, and a tiny scene that compiles fast."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

import jaxplain as jx

# No wall-clock deadlines on a shared machine, and the same examples on every run.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("repeatable")

# Rooms and files in which arrays may grow an axis unasked: layers add biases [C] to maps [N, H, W, C] on
# purpose, and so do Keras and Equinox.
BROADCASTING = {
    "zoo",
    "cli",
    "runs",
    "report",
    "test_adapters",
    "test_precision",
    "test_export",
    "test_memory",
}
# Compiled as users compile: whole models, memory, exported programs and what the command line does.
OPTIMIZED = {"zoo", "cli", "runs", "report", "test_memory", "test_real_photos"}
# Skips that are no loss. In CI (JAXPLAIN_NO_SKIPS) every other skip fails the run.
EXPECTED_SKIPS = (
    "this Pillow does not know the kind yet",
    "this file system has no such names",
    "thousands of model calls",
)


def _is_one_of(request, names):
    """Whether a test's room or file is named."""
    inside = request.path.relative_to(Path(__file__).parent)
    return bool({*inside.parts, inside.stem} & names)


@pytest.fixture(autouse=True, scope="module")
def strict_and_quick(request):
    """No array may grow an axis implicitly: a mask [h, w] times an image [H, W, C] is an error, not a wrong
    picture.

    Hundreds of tiny programs are compiled without most optimisations, which takes half as long.
    """
    jax.config.update("jax_disable_most_optimizations", not _is_one_of(request, OPTIMIZED))
    with jax.numpy_rank_promotion("allow" if _is_one_of(request, BROADCASTING) else "raise"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    # Thousands of compiled programs in one process run into the system's limit of memory maps.
    jax.clear_caches()


def _unexpected_skips(terminal):
    for report in terminal.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(expected in reason for expected in EXPECTED_SKIPS):
            yield f"{report.nodeid}: {reason}"


def pytest_terminal_summary(terminalreporter):
    for skip in _unexpected_skips(terminalreporter):
        terminalreporter.write_line(f"UNEXPECTED SKIP {skip}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    wanted = os.environ.get("JAXPLAIN_NO_SKIPS") and terminal is not None
    if wanted and exitstatus == 0 and any(_unexpected_skips(terminal)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class Net(NamedTuple):
    """A smooth, nonlinear classifier of 12 x 12 x 3 images as a pytree: logits [N, 4]."""

    first: jax.Array  # [432, 6]
    second: jax.Array  # [6, 4]

    def __call__(self, images):
        return jnp.tanh(images.reshape(len(images), -1) @ self.first) @ self.second


class Scene(NamedTuple):
    """Something to explain; the image scores well above the baseline."""

    net: Net
    score: jx.ClassScore
    image: jax.Array  # [12, 12, 3]
    baseline: jax.Array  # [12, 12, 3]


@pytest.fixture(scope="session")
def scene():
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    net = Net(normal(432, 6) / 12, normal(6, 4))
    image = normal(12, 12, 3)
    baseline = jx.blur_baseline(image, kernel=5)
    probabilities = jax.nn.softmax(net(jnp.stack([image, baseline])))
    return Scene(
        net, jx.class_score(net, int(jnp.argmax(probabilities[0] - probabilities[1]))), image, baseline
    )
