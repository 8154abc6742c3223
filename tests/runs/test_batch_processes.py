"""Batch runs in processes of their own: killed, with eight devices, two processes sharing the work.

All take long; their quick variants are in test_batch.py.
"""

import random
import signal
import socket
import time

import pytest
from support.batch_job import (
    assert_same,
    colors,
    contents,
    finished,
    photos,
    start,
    wait_until_running,
)
from support.tiny import tiny_model

from jaxplain.runs.batch import explain_dataset

MANY, KILLS = 200, 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photos(MANY, tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The results of an uninterrupted run on one device."""
    out = tmp_path_factory.mktemp("whole") / "results.zarr"
    finished(start({"photos": folder, "out": out}))
    found = contents(out)
    assert len(found) == MANY
    assert sum(row["row_status"] == 1 for row in found.values()) == MANY * 9 // 10
    return found


def done(out):
    """The number of committed rows."""
    return sum(row["row_status"] == 1 for row in contents(out).values())


def killed(options, seconds):
    """Start a run and kill it some time after its first step began; return how many rows it committed."""
    process = start(options | {"eager": 1, "simple": 1})
    wait_until_running(process)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return done(options["out"])


def explained_here(folder, out):
    """The results of a run in this process."""
    explain_dataset(colors, tiny_model(), folder, out=out)
    return contents(out)


def test_a_run_killed_at_random_moments_ends_with_every_row_once(folder, tmp_path):
    dice, out = random.Random(0), tmp_path / "results.zarr"
    committed = [killed({"photos": folder, "out": out}, dice.uniform(0.0, 0.08)) for _ in range(KILLS)]
    assert committed == sorted(committed)  # nothing committed was ever lost
    assert len(set(committed)) > 3  # it was killed at different moments
    assert_same(explained_here(folder, out), explained_here(folder, tmp_path / "whole.zarr"))


@pytest.mark.parametrize("batch", [1, 3])
def test_eight_devices_find_what_one_finds(folder, whole, tmp_path, batch):
    out = tmp_path / "results.zarr"
    finished(start({"photos": folder, "out": out, "batch": batch}, devices=8))
    assert_same(contents(out), whole, rtol=2e-4, atol=2e-5)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_two(options, devices=1):
    """Two processes that share a run."""
    shared = options | {"coordinator": f"localhost:{free_port()}", "processes": 2}
    return [start(shared | {"process": number}, devices) for number in range(2)]


def test_two_processes_find_what_one_finds(folder, whole, tmp_path):
    out = tmp_path / "results.zarr"
    outputs = [
        finished(process) for process in start_two({"photos": folder, "out": out, "batch": 2}, devices=2)
    ]
    shares = [int(output.split("did ")[1].split()[0]) for output in outputs]
    assert sum(shares) == MANY * 9 // 10
    assert min(shares) >= MANY // 4  # both worked
    assert_same(contents(out), whole, rtol=2e-4, atol=2e-5)


def test_one_process_resumes_what_two_began(folder, whole, tmp_path):
    out = tmp_path / "results.zarr"
    both = start_two({"photos": folder, "out": out, "eager": 1, "slow": 0.1})
    for process in both:
        wait_until_running(process)
    while not (began := done(out)):
        time.sleep(0.01)
    for process in both:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < began < MANY * 9 // 10
    finished(start({"photos": folder, "out": out}))
    assert_same(contents(out), whole)
