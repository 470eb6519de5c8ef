"""A process may be killed at any moment: the run is resumed, and ends with the bits of one that nothing disturbed."""

from __future__ import annotations

import random
import signal
from fnmatch import filter as matching
from pathlib import Path
from time import monotonic
from typing import Any

import ends
import pytest
from ends import check_same, fit
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from zygote import Zygote

from gcgap.records.atomic import remove_unfinished

pytestmark = pytest.mark.robust

PLACES = [
    *("write step=*.ckpt", "write last.ckpt", "write step=*.json", "write emergence.png", "write events*"),
    *("rename *", "hook on_train_batch_*", "hook *"),
]
CHAINS = 6
KILLS = [(place, number) for number in range(3) for place in PLACES]


def seen(run: Path) -> list[str]:
    """The events of an uninterrupted run, in their order."""
    return run.with_name("seen.txt").read_text().splitlines()


def killed(zygote: Zygote, run: Path, end: str, *options: str, **faults: Any) -> bool:
    """Train or resume a run that is to be killed; whether it was."""
    code = zygote(fit(run, end, *options), run.with_name("said.txt"), faults={"below": str(run), **faults})
    assert code in (0, -signal.SIGKILL), run.with_name("said.txt").read_text()
    return code != 0


def test_a_run_ends_at_its_target_or_after_the_most_steps(short_runs: dict[str, Path]) -> None:
    assert ends.step(short_runs["steps"]) == 25
    assert 10 <= ends.step(short_runs["target"]) < 15_000
    for run in short_runs.values():
        assert all(matching(seen(run), place) for place in PLACES)


def test_every_file_is_on_the_disk_before_it_gets_its_name(short_runs: dict[str, Path]) -> None:
    for run in short_runs.values():
        events = [event for event in seen(run) if event.split()[0] in ("write", "sync", "rename") and "tfevents" not in event]
        renamed = [(number, event.split()[1]) for number, event in enumerate(events) if event.startswith("rename ")]
        assert len(renamed) > 15
        assert all(events[number - 2 : number] == [f"write {name}", f"sync {name}"] for number, name in renamed)
        written = {event.split()[1] for event in events if event.startswith("write ")}
        assert written == {name for _, name in renamed} | {"hparams.yaml"}  # Lightning's own, which nothing reads


@pytest.mark.parametrize("chain", range(CHAINS))
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    chain: int, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    end, run, rng = list(ends.ENDS)[chain % 2], tmp_path / "run", random.Random(chain)
    kills = random.Random(0).sample(KILLS, len(KILLS))[chain::CHAINS]
    for place, _ in kills:
        count = len(matching(seen(short_runs[end]), place))
        assert killed(zygote, run, end, at=place, numbers=[rng.randrange(max(1, count // 6))]), place
    assert not killed(zygote, run, end)
    check_same(run, short_runs[end])


def test_tensorboard_shows_each_step_once_though_some_were_trained_twice(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert killed(zygote, run, "steps", at="hook on_validation_end", numbers=[1])  # step 20 is logged, and not saved
    assert not killed(zygote, run, "steps")
    check_same(run, short_runs["steps"])
    events = EventAccumulator(str(run), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE).Reload()
    for tag in events.Tags()["scalars"]:
        if tag != "epoch":  # which Lightning logs with the loss and with the validation
            steps = [event.step for event in events.Scalars(tag)]
            assert steps == sorted(set(steps)), tag
    assert [event.step for event in events.Images("gap/scatter")] == [0, 5, 10, 20, 25]


def test_a_checkpoint_knows_of_no_step_that_tensorboard_does_not(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    """TensorBoard writes in a thread of its own, which may be behind."""
    run = tmp_path / "run"
    assert killed(zygote, run, "steps", at="hook on_before_zero_grad", numbers=[5], delay=0.02)
    assert ends.step(run) == 5
    assert not killed(zygote, run, "steps")
    check_same(run, short_runs["steps"])


def test_a_run_killed_at_random_times_ends_with_the_same_bits(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    began, rng, run = monotonic(), random.Random(5), tmp_path / "run"
    assert not killed(zygote, tmp_path / "timed", "steps")
    whole = monotonic() - began
    for _ in range(4):
        killed(zygote, run, "steps", seconds=whole * rng.random())
    assert not killed(zygote, run, "steps")
    check_same(run, short_runs["steps"])


@pytest.mark.parametrize("end", ends.ENDS)
def test_a_run_killed_in_its_final_measurement_is_measured_when_it_is_resumed(
    end: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert killed(zygote, run, end, at="write final.json", numbers=[0])
    assert not (run / "gap" / "final.json").exists()
    assert not killed(zygote, run, end)
    check_same(run, short_runs[end])


@pytest.mark.parametrize("place", ["write events*", "write config.yaml", "write last.ckpt", "rename last.ckpt"])
def test_a_run_killed_before_its_first_checkpoint_begins_again_with_the_same_command(
    place: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert killed(zygote, run, "steps", at=place, numbers=[0])
    assert not killed(zygote, run, "steps")
    check_same(run, short_runs["steps"])


def test_what_a_run_killed_before_its_first_checkpoint_left_is_no_other_runs(zygote: Zygote, tmp_path: Path) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    assert killed(zygote, run, "steps", at="write last.ckpt", numbers=[0])
    assert zygote(fit(run, "steps", "--model.learning_rate=0.1"), said) == 2
    assert f"{run} already holds a run" in said.read_text()


def test_gradients_that_are_being_accumulated_are_in_no_checkpoint(zygote: Zygote, tmp_path: Path) -> None:
    """A validation may come between two batches of one optimiser step."""
    options = ["--trainer.accumulate_grad_batches=4", "--trainer.max_steps=7"]
    for run in (tmp_path / "whole", tmp_path / "run"):
        place = "hook on_validation_end" if run.name == "run" else "none"
        assert killed(zygote, run, "steps", *options, at=place, numbers=[1]) == (run.name == "run")
    assert not killed(zygote, tmp_path / "run", "steps", *options)
    check_same(tmp_path / "run", tmp_path / "whole")


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {".lock", ".hidden.json", "step=000010.json", ".notes.7", "a.json.12", ".config.yaml.7", ".gcgap", ".a.gcgap"}
    for name in (*kept, ".step=000010.json.12.gcgap", ".last.ckpt.345.gcgap", ".emergence.png.6.gcgap"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    remove_unfinished(tmp_path / "nowhere")
