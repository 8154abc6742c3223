"""The process of a command: its exit, signals, and where compiled programs are cached."""

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from support import tiny
from support.tiny import write_photo

import jaxplain
from jaxplain.cli import app as cli

QUICK = ("--model", "tiny", "--method", "gradient")
KEPT = (
    "1 of 3 photos done. Their results are in jaxplain-out. "
    "To continue, run the command on the remaining photos."
)


@pytest.mark.slow
def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "jaxplain", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"jaxplain {jaxplain.__version__} (jax {jax.__version__})\n"
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu", "no-such-platform"])
@pytest.mark.parametrize("words", ["predict a.png", "sag a.png", "batch . --out x", "xnn report x"])
def test_a_device_that_is_not_there_is_one_sentence(platform, words, tmp_path):
    write_photo(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-m", "jaxplain", *words.split()],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"JAX_PLATFORMS": platform},
    )  # fmt: skip
    assert done.returncode == 2
    assert f"JAX finds no device for JAX_PLATFORMS={platform}: unset that variable" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_that_cannot_be_written_is_told(monkeypatch, capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("quiet_jax", "use_compilation_cache", "end_as_by_ctrl_c"):
        monkeypatch.setattr(cli.process, name, lambda: None)
    monkeypatch.setattr(cli, "app", full)
    monkeypatch.setattr(cli.process, "leave_at_once", sys.exit)
    monkeypatch.setattr(sys, "stdout", None)  # closed
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    message = capsys.readouterr().err
    assert message == "error cannot write the output: No space left on device. Redirect it elsewhere.\n"


# The second photo never ends, in and out of native code, through which Python cannot take down a thread.
SLOW_COMMAND = """
import signal, sys, jax
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
sys.path[:0] = [{tests!r}, {site!r}]
from support import tiny
from jaxplain import zoo
from jaxplain.cli import app as cli
from jaxplain.cli import explain_commands as commands
zoo.MODELS["tiny"] = tiny.ENTRY
explain_photo, calls = commands.explain_photo, []
def slow(*args):
    calls.append(args)
    if len(calls) == 2:
        while True:
            jax.jit(lambda number: number + 1)(1)
    return explain_photo(*args)
commands.explain_photo = slow
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_at_once(tmp_path, monkeypatch, number, status):
    monkeypatch.chdir(tmp_path)
    tiny.write_package(tmp_path / "site")
    photos = [str(write_photo(Path(f"{name}.png"), seed)) for seed, name in enumerate("abc")]
    tests = os.path.dirname(os.path.dirname(tiny.__file__))
    program = SLOW_COMMAND.format(tests=tests, site=str(tmp_path / "site"))
    command = [sys.executable, "-c", program, "explain", *photos, *QUICK]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it would go before
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        seen = list(itertools.takewhile(lambda line: line != "[2/3] b.png\n", process.stderr))
        process.send_signal(number)
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()  # where it does not end by itself
    assert process.returncode == status
    assert seen == ["loading tiny\n", "[1/3] compiling\n", "[1/3] a.png\n"]
    assert stderr == f"interrupted {KEPT}\n"
    assert "a.png" in stdout
    assert [folder.name for folder in Path("jaxplain-out").iterdir()] == ["a"]
    assert (tmp_path / "cache" / "jaxplain" / "jax").is_dir()


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XDG_CACHE_HOME": "/base/x"}, "/base/x/jaxplain/jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "/base/h"}, "/base/h/.cache/jaxplain/jax"),
        ({"JAX_COMPILATION_CACHE_DIR": "/base/j", "XDG_CACHE_HOME": "/base/x"}, "/base/j"),
        ({"XDG_CACHE_HOME": "/base/file"}, None),
        ({"JAX_COMPILATION_CACHE_DIR": "/base/file/j"}, None),
        ({"JAX_COMPILATION_CACHE_DIR": ""}, "untouched"),
        ({"JAX_COMPILATION_CACHE_DIR": "gs://bucket/cache"}, "untouched"),
    ],
)
def test_where_compiled_programs_are_kept(monkeypatch, tmp_path, environment, folder):
    (tmp_path / "file").touch()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("/base", str(tmp_path)))
    chosen = ["untouched"]
    monkeypatch.setattr(jax.config, "update", lambda name, value: chosen.append(value))
    cli.process.use_compilation_cache()
    assert chosen[-1] == (folder and folder.replace("/base", str(tmp_path)))
