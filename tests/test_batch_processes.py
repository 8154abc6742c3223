"""Runs over a data set in processes of their own: killed, with eight devices, two processes joined."""

import random
import signal
import socket
import time

import pytest
from batch_job import assert_same, contents, finished, photos, start

IMAGES, KILLS = 200, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photos(IMAGES, tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """What an uninterrupted run on one device writes."""
    out = tmp_path_factory.mktemp("whole") / "results.zarr"
    finished(start({"photos": folder, "out": out}))
    found = contents(out)
    assert len(found) == IMAGES
    assert sum(row["row_status"] == 1 for row in found.values()) == IMAGES * 9 // 10
    return found


def done(out):
    """How many rows are committed."""
    return sum(row["row_status"] == 1 for row in contents(out).values())


def test_a_run_killed_at_random_moments_ends_with_every_row_once(folder, tmp_path):
    """SIGKILL while it computes and writes; then the same command again, twenty times."""
    options = {"photos": folder, "out": tmp_path / "results.zarr", "simple": 1}
    dice, committed = random.Random(0), []
    for _ in range(KILLS):
        process = start(options | {"eager": 1})
        for line in process.stdout:
            if line.startswith("running"):
                break
        time.sleep(dice.uniform(0.0, 0.08))
        process.send_signal(signal.SIGKILL)
        process.wait()
        committed.append(done(options["out"]))
    assert committed == sorted(committed)  # nothing committed was ever lost
    assert len(set(committed)) > 3  # the kills did hit it on its way
    finished(start(options))
    finished(start(options | {"out": tmp_path / "whole.zarr"}))
    assert_same(contents(options["out"]), contents(tmp_path / "whole.zarr"))


@pytest.mark.parametrize("batch", [1, 3])
def test_eight_devices_find_what_one_finds(folder, whole, tmp_path, batch):
    out = tmp_path / "results.zarr"
    finished(start({"photos": folder, "out": out, "batch": batch}, devices=8))
    assert_same(contents(out), whole, rtol=2e-4, atol=2e-5)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def together(options, devices=1):
    """Two processes joined by JAX's own runtime."""
    shared = options | {"coordinator": f"localhost:{free_port()}", "processes": 2}
    both = [start(shared | {"process": number}, devices) for number in range(2)]
    return [finished(process) for process in both]


def test_two_processes_share_a_run(folder, whole, tmp_path):
    out = tmp_path / "results.zarr"
    outputs = together({"photos": folder, "out": out, "batch": 2}, devices=2)
    shares = [int(output.split("did ")[1].split()[0]) for output in outputs]
    assert sum(shares) == IMAGES * 9 // 10
    assert min(shares) >= IMAGES // 4  # both worked
    assert_same(contents(out), whole, rtol=2e-4, atol=2e-5)


def test_one_process_goes_on_with_what_two_began(folder, whole, tmp_path):
    out = tmp_path / "results.zarr"
    shared = {"photos": folder, "out": out, "eager": 1, "slow": 0.1, "processes": 2}
    shared["coordinator"] = f"localhost:{free_port()}"
    both = [start(shared | {"process": number}) for number in range(2)]
    for process in both:
        for line in process.stdout:
            if line.startswith("running"):
                break
    while not (began := done(out)):
        time.sleep(0.01)
    for process in both:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < began < IMAGES * 9 // 10
    finished(start({"photos": folder, "out": out}))
    assert_same(contents(out), whole)
