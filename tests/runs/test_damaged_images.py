"""Hundreds of damaged and odd files: pixels or one clear error, never a crash, and good files finish."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import tiny
from support.batch_job import colors
from support.image_files import damaged, whole

from jaxplain.images import ImageError, load_image
from jaxplain.runs.batch import RowStatus, explain_dataset, open_store

SECONDS = 30  # for one file, on a busy machine

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's remarks about damaged metadata


def write(folder, files):
    """Write files, all of them named as photos, whatever they are."""
    folder.mkdir(exist_ok=True)
    for number, (name, data) in enumerate(files.items()):
        (folder / f"{name}.{('png', 'JPG', 'tif', 'webp')[number % 4]}").write_bytes(data)
    return folder


def add_odd_entries(folder):
    """Add what is not a photo: folders, links, a pipe, hidden files, files without content or permission."""
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.jpg").write_bytes(b"not a photo")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "broken.png").symlink_to(folder / "missing.png")
    (folder / "around.png").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.png")
    (folder / "empty.png").touch()
    (folder / "locked.png").write_bytes(b"not a photo, and not readable")
    (folder / "locked.png").chmod(0)
    for name in (".hidden.png", "._resource.jpg", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"not a photo")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "copy.png").write_bytes(b"not a photo")


def outcome(path):
    """What the reader makes of a file: "read" or "refused"."""
    try:
        rgb = load_image(path)
    except ImageError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message.strip()
        assert len(message) > len(str(path)) + 25, message
        return "refused"
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    return "read"


def outcomes(folder):
    """The reader's outcome for every entry of a folder; a file that hangs fails the test."""
    with ThreadPoolExecutor(1) as pool:
        return {path.name: pool.submit(outcome, path).result(SECONDS) for path in sorted(folder.iterdir())}


def run(folder, out):
    """Explain a folder with a toy model; return (identity, status, reason) of each row."""
    explain_dataset(colors, tiny.tiny_model(), folder, out=out, per_device_batch=8)
    store = open_store(out)
    return list(zip(store.identities(), store.status().tolist(), store.reasons(), strict=True))


def check(tmp_path, good, bad):
    folder = write(tmp_path / "photos", {f"good-{name}": data for name, data in good.items()} | bad)
    add_odd_entries(folder)
    read = outcomes(folder)
    assert {name for name in read if name.startswith("good")} <= {
        n for n, how in read.items() if how == "read"
    }
    assert read["pipe.png"] == read["loop.png"] == read["folder.png"] == "refused"
    rows = run(folder, tmp_path / "results.zarr")
    names = {name for name, _, _ in rows}
    ignored = {"around.png", "folder.png", "Thumbs.db", "desktop.ini"}
    shown = {name for name in read if not name.startswith(".")} - ignored
    assert names == shown | {"folder.png/inside.jpg"}
    for name, status, reason in rows:
        if status == RowStatus.FAILED:
            assert reason.startswith(f"{folder / name}: "), f"{name}: {reason}"  # the reader's own words
        else:
            assert status == RowStatus.OK
    done = {name for name, status, _ in rows if status == RowStatus.OK}
    assert done == {name for name, how in read.items() if how == "read" and name in names}
    return read


def test_twenty_damaged_files_in_a_folder(tmp_path):
    good = whole()
    few = {name: good[name] for name in ("rgb-PNG", "rgb-JPEG", "deep-separate-None-TIFF")}
    bad = damaged(few)
    picked = {name: bad[name] for name in list(bad)[::2]}
    assert len(picked) >= 20
    check(tmp_path, few, picked)


@pytest.mark.slow
def test_hundreds_of_damaged_files_in_a_folder(tmp_path):
    good = whole()
    bad = damaged(good)
    assert len(bad) >= 300
    read = check(tmp_path, good, bad)
    refused = sum(how == "refused" for how in read.values())
    assert refused > len(bad) / 2  # the damage is real
