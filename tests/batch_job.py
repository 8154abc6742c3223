"""A run in a process of its own, for tests that kill it, give it several devices or join it to others.

`python batch_job.py OPTIONS` with the options of `start`; prints "running" before the first step.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SIDE = 32


def photos(count, folder):
    """`count` photos in a folder; the seventh of each ten cannot be read."""
    from tiny import write_photo

    for number in range(count):
        path = folder / f"photo{number:03}.png"
        write_photo(path, number)
        if number % 10 == 6:
            path.write_bytes(b"not a photo")
    return folder


def noisy_igos(model, image, target, key):
    """Something that depends on image, target and key."""
    import jaxplain as jx

    score = jx.class_score(model, target)
    found = jx.igos(score, image, jx.blur_baseline(image), key=key, size=4, noise=0.3, iterations=2, steps=2)
    return {"mask": found.mask, "saliency": found.saliency, "loss": found.loss}


def simple(model, image, target, key):
    """Something that compiles at once and depends on image, target and key."""
    import jax

    return {"map": image.mean(-1) + jax.random.uniform(key, ()), "target": target}


def start(options, devices=1, **popen):
    """Begin a run in another process; options by name, as below."""
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, str(HERE / "batch_job.py"), *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen,
    )  # fmt: skip


def finished(process):
    """Wait for a run that must end well; its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def contents(path):
    """Everything in a store by the images' identities, however its rows are ordered."""
    from jaxplain.batch import open_store

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
    """Two stores' contents agree, bit for bit unless a tolerance is given."""
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
    parser.add_argument("--slow", type=float, default=0.0, help="seconds that reading a photo takes longer")
    parser.add_argument("--simple", type=int, default=0, help="explain by `simple`, not by `noisy_igos`")
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options = parser.parse_args()

    from tiny import tiny_model

    from jaxplain import batch
    from jaxplain.batch import dataset, run, writing

    if options.coordinator:
        batch.join(options.coordinator, options.processes, options.process)
    if options.eager:
        writing._COMMIT_SECONDS = 0.0
    compile_program = run.compile_program

    def compiled(*args, **kwargs):
        program = compile_program(*args, **kwargs)
        print("running", flush=True)
        return program

    run.compile_program = compiled
    load_image = dataset.load_image

    def slowly(path):
        time.sleep(options.slow)
        return load_image(path)

    dataset.load_image = slowly
    outcome = batch.explain_dataset(
        simple if options.simple else noisy_igos,
        tiny_model(),
        options.photos,
        out=options.out,
        per_device_batch=options.batch,
    )
    print("did", outcome.progress.done, "failed", outcome.progress.failed, "mended", outcome.mended)


if __name__ == "__main__":
    main()
