"""A run in a process of its own, for tests that kill it, give it several devices or several processes.

`python -m support.batch_job OPTIONS` with the options of `start`; prints "running" before the first step.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]


def photos(count, folder):
    """Write `count` photos into a folder; the seventh of each ten is not readable."""
    from support.tiny import write_photo

    for number in range(count):
        path = folder / f"photo{number:03}.png"
        write_photo(path, number)
        if number % 10 == 6:
            path.write_bytes(b"not a photo")
    return folder


def colors(model, image, target, key):
    """A cheap explanation that depends on image, target and key."""
    import jax

    return {"map": image.mean(-1) + jax.random.uniform(key, ()), "target": target}


def noisy_gradient(model, image, target, key):
    """An explanation that depends on the model's gradient, image, target and key."""
    import jax

    import jaxplain as jx

    score = jx.class_score(model, target)
    images = image[None] + 0.3 * jax.random.normal(key, (3, *image.shape))
    values, grads = jax.value_and_grad(lambda images: score(images).sum())(images)
    return {"map": grads.mean((0, -1)), "score": values / 3}


_STEPS = {}


def share_steps(monkeypatch):
    """Let runs of the same kind in this process share their compiled program, made without optimizations.

    Most of a small run is compilation.
    """
    import jax

    from jaxplain.runs import batch, sharding
    from jaxplain.runs.records import weights_digest

    def shared(explain, model, image_format, mesh, *, seed, per_device_batch):
        kind = repr(explain) if isinstance(explain, sharding.Recipe) else explain
        structure = str(jax.tree_util.tree_structure(model))
        key = (kind, structure, weights_digest(model), image_format, mesh, seed, per_device_batch)
        if key not in _STEPS:
            jax.config.update("jax_disable_most_optimizations", True)
            _STEPS[key] = sharding.compile_step(
                explain, model, image_format, mesh, seed=seed, per_device_batch=per_device_batch
            )
            jax.config.update("jax_disable_most_optimizations", False)
        return _STEPS[key]

    monkeypatch.setattr(batch, "compile_step", shared)


def environment(**more):
    """The variables of another process that imports this package and these tests."""
    import jaxplain

    paths = [str(TESTS), str(Path(jaxplain.__file__).parents[1])]
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)} | more


def start(options, devices=1):
    """Start a run in another process, with the options of `main` by name."""
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "support.batch_job", *words],
        env=environment(XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(process):
    """Wait for a run that must succeed; return its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_until_running(process):
    """Wait until a process has compiled."""
    for line in process.stdout:
        if line.startswith("running"):
            break


def contents(path):
    """Everything in a store by the images' identities, however its rows are ordered."""
    from jaxplain.runs.store import open_store

    store = open_store(path)
    names = ["row_status", "row_target", "row_score", *store.leaves]
    arrays = {name: store.read(name) for name in names}
    reasons, identities = store.reasons(), store.identities()
    assert len(set(identities)) == len(identities) == len(store)  # every row is there once
    return {
        identity: {name: array[row] for name, array in arrays.items()} | {"reason": reasons[row]}
        for row, identity in enumerate(identities)
    }


def assert_same(found, expected, **tolerance):
    """The contents of two stores agree, bit for bit unless a tolerance is given."""
    assert found.keys() == expected.keys()
    for identity, row in expected.items():
        assert found[identity]["reason"] == row["reason"]
        for name, value in row.items():
            if name != "reason" and not tolerance:
                np.testing.assert_array_equal(found[identity][name], value, err_msg=f"{identity} {name}")
            elif name != "reason":
                np.testing.assert_allclose(
                    found[identity][name], value, err_msg=f"{identity} {name}", **tolerance
                )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos")
    parser.add_argument("--out")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--eager", type=int, default=0, help="commit as often as possible")
    parser.add_argument("--slow", type=float, default=0.0, help="additional seconds for reading a photo")
    parser.add_argument("--simple", type=int, default=0, help="explain by `colors`, not by `noisy_gradient`")
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options = parser.parse_args()

    from jaxplain.runs import batch, dataset, sharding, writer
    from support.tiny import tiny_model

    if options.coordinator:
        sharding.join(options.coordinator, options.processes, options.process)
    if options.eager:
        writer._COMMIT_SECONDS = 0.0
    load_image = dataset.load_image

    def slowly(path, **named):
        time.sleep(options.slow)
        return load_image(path, **named)

    def on_phase(phase):
        if phase is batch.Phase.EXPLAINING:
            print("running", flush=True)

    dataset.load_image = slowly
    outcome = batch.explain_dataset(
        colors if options.simple else noisy_gradient, tiny_model(), options.photos,
        out=options.out, per_device_batch=options.batch, on_phase=on_phase,
    )  # fmt: skip
    print("did", outcome.progress.done, "failed", outcome.progress.failed, "repaired", outcome.repaired)


if __name__ == "__main__":
    main()
