"""A disk that is full, or may not be written: a short error names the file, earlier files stay whole, and the run goes on."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from fnmatch import filter as matching
from pathlib import Path

import ends
import pytest
import tiny
from ends import check_same, fit
from zygote import Zygote

from gcgap.records.atomic import write_whole

pytestmark = pytest.mark.robust

PLACES = [
    *("write config.yaml", "write last.ckpt", "write step=*.ckpt", "write step=*.json", "write emergence.png", "write events*"),
    *("write final.json", "write *"),
]
FULL = "[Errno 28] No space left on device"


def failed(said: Path) -> str:
    """What a command said that failed: one to three lines, the last ones of all."""
    text = said.read_text()
    assert "Traceback" not in text
    assert text.count("gcgap: error: ") == 1
    told = text[text.index("gcgap: error: ") :]
    assert 1 <= len(told.splitlines()) <= 3
    return told


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_a_full_disk_is_told_by_the_file_and_the_run_goes_on_to_the_same_bits(
    number: int, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    end, place, run, said = list(ends.ENDS)[number % 2], PLACES[number], tmp_path / "run", tmp_path / "said.txt"
    count = len(matching(short_runs[end].with_name("seen.txt").read_text().splitlines(), place))
    faults = {"below": str(run), "at": place, "numbers": [random.Random(number).randrange(count)], "act": "full"}
    assert zygote(fit(run, end), said, faults=faults) == 1
    told, resumes = failed(said), (run / "checkpoints" / "last.ckpt").exists()
    assert f"OSError: {FULL}: '{run}" in told
    assert (f"the same command{' with `--ckpt_path last`' if resumes else ''} resumes.") in told
    if place not in ("write *", "write events*"):
        assert Path(told.split("'")[1]).match(place.removeprefix("write "))
    assert ends.unfinished(run) == []
    assert zygote(fit(run, end), said) == 0, said.read_text()
    check_same(run, short_runs[end])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte; too little for a run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)


def test_a_small_disk_is_full_until_it_is_made_larger(
    disk: Path, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = disk / "run", tmp_path / "said.txt"
    assert zygote(fit(run, "steps"), said) == 1
    assert f"OSError: {FULL}: '{run}" in failed(said)
    assert 0 < ends.step(run) < 25
    remount(disk, "size=8m")
    assert zygote(fit(run, "steps"), said) == 0
    check_same(run, short_runs["steps"])


@pytest.fixture
def protect(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[bool], None]]:
    """A folder, and what makes everything in it read-only or writable again."""
    if os.geteuid() == 0:  # root may write whatever the mode
        disk = request.getfixturevalue("disk")
        remount(disk, "size=8m")
        return disk, lambda protected: remount(disk, "ro" if protected else "rw")

    def change(protected: bool) -> None:
        for path in (tmp_path, *tmp_path.rglob("*")):
            path.chmod((0o500 if path.is_dir() else 0o400) if protected else (0o700 if path.is_dir() else 0o600))

    return tmp_path, change


def test_a_directory_that_may_not_be_written_is_named_and_left_as_it_is(
    protect: tuple[Path, Callable[[bool], None]],
    zygote: Zygote,
    short_runs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, change = protect
    run, said = folder / "run", tmp_path_factory.mktemp("said") / "said.txt"
    faults = {"below": str(run), "at": "hook on_train_batch_start", "numbers": [17]}
    assert zygote(fit(run, "steps"), said, faults=faults) == -signal.SIGKILL
    command, before = fit(run, "steps"), tiny.files(run)
    change(True)
    assert zygote(command, said) == 1
    assert f": '{run}" in failed(said)
    assert tiny.files(run) == before
    change(False)
    assert zygote(command, said) == 0
    check_same(run, short_runs["steps"])


def test_what_cannot_be_brought_to_the_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gap" / "final.json"
    write_whole(path, b"whole")

    def fail(number: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"Input/output error: '{path}'"):
        write_whole(path, b"new")
    assert tiny.files(tmp_path) == {"gap/final.json": b"whole"}
