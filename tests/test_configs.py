"""Every config that is shipped parses, runs, and writes nothing while it is only tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from gcgap.cli import main
from gcgap.commands.measure_command import build_parser
from gcgap.commands.sweep_models import planned
from gcgap.sweep.plan import PlannedRun, read
from gcgap.training.lightning_cli import ConfigOnly
from gcgap.training.usage import UsageError

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
SWEEPS = [path for path in FILES if "configs" in yaml.safe_load(path.read_text())]
CONFIGS = [path for path in FILES if path not in (*SWEEPS, ROOT / "configs" / "pythia.yaml")]
NAMES = [str(path.relative_to(ROOT)) for path in CONFIGS]
RUN = [path for path in CONFIGS if path.name != "reverse.yaml"]  # sort.yaml beside it has another task and length


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_there_is_a_config_for_each_task_and_for_the_released_pipeline() -> None:
    wanted = {f"configs/{folder}{task}.yaml" for folder in ("", "released/") for task in ("sort", "reverse")}
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("config", RUN, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_config_runs_and_writes_nothing_when_tried(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    tried = ["--trainer.fast_dev_run", "1", "--trainer.default_root_dir", str(run), "--trainer.enable_progress_bar", "false"]
    tried += ["--data.batch_size=8", "--data.validation_sequences=4", "--protocol.baselines=[mean]"]
    assert main(["fit", "--config", str(config), *tried]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_config_says_only_what_differs_from_the_defaults(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = flat(yaml.safe_load(config.read_text()))
    assert asked.pop("seed_everything") == 42  # named in every config, because every run has one
    capsys.readouterr()
    assert print_config() == 0
    default = flat(yaml.safe_load(capsys.readouterr().out))
    assert asked.keys() <= default.keys()
    kept = {"data.task", "protocol.tracking.length"}  # named with their reason, whatever the default is
    assert {key for key, value in asked.items() if value == default[key]} <= kept


def print_config() -> int:
    """The exit code of printing the defaults of `gcgap fit`."""
    try:
        return main(["fit", "--print_config"])
    except SystemExit as leaving:
        return int(leaving.code or 0)


@pytest.mark.parametrize("key", ["frob", "data.frob", "model.frob", "protocol.frob", "protocol.tracking.frob", "trainer.frob"])
@pytest.mark.parametrize("config", CONFIGS[:1], ids=NAMES[:1])
def test_an_unknown_key_in_a_config_is_refused_by_name(
    config: Path, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config.read_text())
    *blocks, last = key.split(".")
    inner = settings
    for block in blocks:
        inner = inner.setdefault(block, {})
    inner[last] = 1
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(changed), "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert key in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["changed.yaml"]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PlannedRun]]:
    """An empty folder, and the sweep of the paper as it is planned there."""
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, read(ROOT / "configs" / "paper.yaml")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_sweep_starts_from_the_configs_that_are_shipped(path: Path, paper: tuple[Path, list[PlannedRun]]) -> None:
    runs = paper[1] if path.name == "paper.yaml" else read(path)
    assert {run.config.resolve() for run in runs} <= set(CONFIGS)
    assert len({run.job.directory for run in runs}) == len(runs)


def test_the_sweep_of_the_paper_is_its_seeds_and_tasks_under_both_protocols(paper: tuple[Path, list[PlannedRun]]) -> None:
    folder, planned = paper
    runs = {run.job.name: run for run in planned}
    seeds = (42, 123, 456, 789, 1010, 2020, 3030, 4040, 5050, 6060)
    groups = ("default", "released")
    assert list(runs) == [f"{group}/{task}-seed{seed}" for group in groups for task in ("sort", "reverse") for seed in seeds]
    for name, run in runs.items():
        group, task, seed = re.fullmatch(r"(\w+)/(\w+)-seed(\d+)", name).groups()  # type: ignore[union-attr]
        layout, site = ("contiguous", "component") if group == "default" else ("released", "released")
        found = flat(run.resolved)
        wanted = {"data.task": task, "seed_everything": int(seed), "data.layout": layout, "protocol.site": site}
        assert wanted.items() <= found.items()
        assert run.job.run == folder / "runs" / "paper" / name
        assert len(run.job.records) == {"default": 2, "released": 3}[group]
    assert list(folder.iterdir()) == []


def test_the_sweep_of_pythia_is_every_revision_that_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = planned(ROOT / "configs" / "pythia.yaml")
    steps = [0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)]
    home = tmp_path / "runs" / "pythia" / "EleutherAI-pythia-70m-ioi-seed42"
    assert [run.job.paths for run in runs] == [[home / "gap" / f"step={step:06d}.json"] for step in steps]
    assert [run.job.commands[0][-1] for run in runs] == [f"--revision=step{step}" for step in steps]
    assert len(runs) == 154
    assert list(tmp_path.iterdir()) == []


def test_the_released_configs_name_every_switch_of_the_public_pipeline() -> None:
    for task in ("sort", "reverse"):
        asked = flat(yaml.safe_load((ROOT / "configs" / "released" / f"{task}.yaml").read_text()))
        switches = {"data.layout": "released", "protocol.site": "released", "protocol.paired": False, "protocol.ranks": "ordinal"}
        switches |= {"protocol.normalise_gradient": False, "protocol.strict": True, "protocol.sequences": 100}
        assert switches.items() <= asked.items()
        plain = flat(yaml.safe_load((ROOT / "configs" / f"{task}.yaml").read_text()))
        assert not switches.keys() & plain.keys()


@pytest.fixture(scope="module")
def resolver() -> ConfigOnly:
    return ConfigOnly()


def of(resolver: ConfigOnly, key: str, *arguments: str) -> Any:
    """The value of a key, or None where the arguments are refused, which must be by its name."""
    error: Exception
    try:
        return flat(resolver.resolve(list(arguments)))[key]
    except (UsageError, ValueError) as refused:
        error = refused
    assert f"`{key}`" in str(error) or "t.yaml" in str(error), error
    assert len(str(error).splitlines()) <= 3, error
    return None


@pytest.mark.parametrize(
    ("text", "seed"),
    [("0123", 123), ("+0123", 123), ("0o17", 15), ("1:30", None), ("1_000", None), ("1e3", None), ("2.7", None), ("on", None)],
)
def test_a_value_means_in_a_file_what_it_means_as_an_option(
    text: str, seed: int | None, resolver: ConfigOnly, tmp_path: Path
) -> None:
    (tmp_path / "t.yaml").write_text(f"seed_everything: {text}\n")
    assert of(resolver, "seed_everything", f"--config={tmp_path / 't.yaml'}") == seed
    assert of(resolver, "seed_everything", f"--seed_everything={text}") == seed


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *[("trainer.overfit_batches", "9" * 400), ("protocol.threshold", "1e999")],
        *[("data.batch_size", "9" * 5000), ("model.learning_rate", ".inf")],
        *[
            ("trainer.max_steps", "9223372036854775808"),
            ("data.lengths", "[1, 9223372036854775808]"),
            ("seed_everything", "null"),
            ("data.batch_size", "999999999999999999"),
        ],
        *[("trainer.accumulate_grad_batches", "0"), ("trainer.val_check_interval", "0"), ("trainer.gradient_clip_val", ".nan")],
    ],
    ids=lambda text: text[:20],
)
def test_a_number_that_nothing_can_compute_with_is_refused_by_its_key(
    key: str, text: str, resolver: ConfigOnly, tmp_path: Path
) -> None:
    block, _, last = key.rpartition(".")
    (tmp_path / "t.yaml").write_text(f"{block}:\n  {last}: {text}\n" if block else f"{last}: {text}\n")
    assert of(resolver, key, f"--config={tmp_path / 't.yaml'}") is None
    assert of(resolver, key, f"--{key}={text}") is None


def test_settings_hold_in_the_order_in_which_they_are_typed(resolver: ConfigOnly, tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("data: {batch_size: 1, task: sort}\nseed_everything: 1\n")
    second.write_text("data: {batch_size: 2}\n")
    a, b = f"--config={first}", f"--config={second}"
    for arguments, size, seed in (
        ([a, "--data.batch_size=3", b], 2, 1),
        (["--seed_everything=7", b, "--data.batch_size=3", a], 1, 1),
        ([a, "--data.batch_size=3", "--seed_everything=7", "--data.batch_size=4"], 4, 7),
        (["--data.batch_size=3", "--data={batch_size: 5}", "--data={task: reverse}"], 5, 42),
        (["--data={batch_size: 5}", "--data.batch_size=3"], 3, 42),
    ):
        found = resolver.parser.parse_args(["fit", *arguments])["fit"]
        assert (found.data.batch_size, found.seed_everything) == (size, seed), arguments


@pytest.mark.parametrize(
    "text",
    [
        "data: {batch_size: 1, batch_size: 2}",
        "data: {batch_size: 1, 'batch_size': 2}",
        "data: {batch_size: 1}\nseed_everything: 1\ndata: {task: sort}",
        "data.batch_size: 1\ndata: {task: reverse}",
    ],
)
def test_a_file_that_says_something_twice_or_in_another_way_is_refused_by_name(
    text: str, resolver: ConfigOnly, tmp_path: Path
) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"t\.yaml"):
        resolver.resolve([f"--config={tmp_path / 't.yaml'}"])
    if "\n" not in text:
        block = text.removeprefix("data: ")
        with pytest.raises(UsageError, match="`data`"):
            resolver.resolve([f"--data={block}"])
        (tmp_path / "t.yaml").write_text(block)
        with pytest.raises(UsageError, match=r"`data`: .*t\.yaml"):
            resolver.resolve([f"--data={tmp_path / 't.yaml'}"])


def test_a_resolved_config_is_read_again_as_what_it_was(resolver: ConfigOnly, tmp_path: Path) -> None:
    chosen = resolver.parser.parse_args(
        ["fit", "--data.task=1e3", "--trainer.default_root_dir=0o17", "--model.learning_rate=1e-05"]
    )
    (tmp_path / "t.yaml").write_text(resolver._parser("fit").dump(chosen["fit"], skip_none=False))
    again = resolver.parser.parse_args(["fit", f"--config={tmp_path / 't.yaml'}"])["fit"]
    assert (again.data.task, again.trainer.default_root_dir, again.model.learning_rate) == ("1e3", "0o17", 1e-5)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            "--trainer.logger=CSVLogger",
            "`trainer.logger`: the following arguments are required: save_dir; give `--trainer.logger.save_dir` too",
        ),
        ("--trainer.callbacks=EarlyStopping", "`trainer.callbacks`: the following arguments are required: monitor"),
        ("--trainer.callbacks=Frob", "`trainer.callbacks`: Expected a dot import path string: Frob\nGot Frob"),
        ("--trainer.logger={class_path: CSVLogger, init_args: {save_dir: x, version: [1]}}", "`trainer.logger`: `version`: "),
        ("--trainer.precision=17", "`trainer.precision`: Expected one of [64, 32, 16]; "),
        ("--seed_everything=-1", "`seed_everything` must be between 0 and 4294967295; got -1."),
        ("--seed_everything=4294967296", "`seed_everything` must be between 0 and 4294967295; got 4294967296."),
        ("--data.batch_size=many", "`data.batch_size`: Expected an integer. Got value: many"),
    ],
    ids=lambda text: text[:30],
)
def test_an_error_of_jsonargparse_says_the_key_and_the_reason(option: str, told: str, resolver: ConfigOnly) -> None:
    with pytest.raises(UsageError) as refused:
        resolver.resolve([option])
    assert str(refused.value).startswith(told)
    assert len(str(refused.value).splitlines()) <= 3


def test_measure_reads_values_as_fit_does() -> None:
    parser = build_parser()
    assert parser.parse_args(["--protocol.batch_size=0123", "--length=0o17"]).protocol.batch_size == 123
    for value in ("1:30", "1_000", "1e3", "yes"):
        with pytest.raises(UsageError, match=r"`protocol\.batch_size`"):
            parser.parse_args([f"--protocol.batch_size={value}"])
