"""The commands and the Python of the README and of the pages run as written, but for sizes that keep a test short."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import families
import paper_runs
import pictures
import pytest
import tiny
import toy_tokens
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gcgap.attribution.methods import METHODS
from gcgap.attribution.setup import default_protocol
from gcgap.cli import main
from gcgap.commands.sweep_command import build_parser
from gcgap.importance.protocol import Protocol
from gcgap.measurement import measure as measurement
from gcgap.records.record import Record
from gcgap.report.terminal import table

attribution = import_module("gcgap.attribution.attribute")  # the package has a function of this name
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
STUDY = (ROOT / "docs" / "reproduction.md").read_text()
PAGES = "\n".join([README, STUDY, (ROOT / "docs" / "commands.md").read_text()])
SHOWN = [line.split("  #")[0].strip() for line in PAGES.splitlines() if line.startswith("    gcgap ")]
COMMANDS = list(dict.fromkeys(SHOWN))
FITS = [command for command in COMMANDS if command.startswith("gcgap fit")]
LINKED = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SIZES = {"gradient_batches": 2, "mean_batches": 1, "sequences": 8, "resamples": 100, "random_pairs": 1}
SMALL = [f"--protocol.{inner}{key}={value}" for key, value in SIZES.items() for inner in ("", "tracking.")]
ATTRIBUTE = ["--sequences=8", "--methods=exact,attribution_patching,gradient"]
EXTRA = {
    "fit": ["--trainer.fast_dev_run=1", "--data.batch_size=8", "--data.validation_sequences=4"],
    "measure": [*SMALL, "--protocol.baselines=[mean]"],
    "attribute": ATTRIBUTE,
}

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the configs, the reference runs, and a run of the sorting config with the last checkpoint alone."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(ROOT / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(ROOT / "checkpoints" / "sort-seed42", tmp_path / "runs" / "sort-seed42")
    shutil.copytree(ROOT / "checkpoints", tmp_path / "runs" / "paper")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    families.save(tmp_path / "gpt2")  # directories where the README has names on the hub
    for step in ("step1000", "step8000"):
        families.save(tmp_path / "EleutherAI" / "pythia-70m" / step, "gpt_neox")
    (weights,) = (tmp_path / "runs" / "sort-seed42" / "checkpoints").glob("*.ckpt")
    shutil.copy(weights, weights.with_name("last.ckpt"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that no option changes are small, and figures are drawn by tests/test_report.py and test_attribute_command.py."""

    def few(*given: Any) -> Protocol:
        return replace(default_protocol(*given), **SIZES | {"batch_size": 8})

    monkeypatch.setattr(attribution, "default_protocol", few)
    monkeypatch.setattr(attribution, "WINDOW_SEQUENCES", 40)
    monkeypatch.setattr("gcgap.attribution.setup.default_protocol", few)
    monkeypatch.setattr("gcgap.report.write.FIGURES", {})
    monkeypatch.setattr(measurement, "Protocol", lambda: replace(Protocol(), **SIZES))
    monkeypatch.setattr(measurement, "PROMPTED", measurement.PROMPTED.smallest())
    pictures.write_quickly(monkeypatch)
    paper_runs.predict_quickly(monkeypatch)


def test_the_readme_shows_every_command() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} >= {"fit", "measure", "test", "sweep", "report", "attribute"}


def test_the_sweep_of_the_readme_is_one_whose_runs_are_tested() -> None:
    """It is not run: its 40 runs take hours. tests/test_configs.py resolves it, tests/test_sweep.py runs small ones."""
    commands = [command for command in COMMANDS if command.startswith("gcgap sweep")]
    assert {build_parser().parse_args(shlex.split(command)[2:]).config for command in commands} == {Path("configs/paper.yaml")}


def test_a_run_of_the_readme_is_that_of_a_shipped_config() -> None:
    """Those are tried by tests/test_configs.py; here only the first one is run."""
    for command in FITS:
        *start, config = shlex.split(command)
        assert start == ["gcgap", "fit", "--config"]
        assert (ROOT / config).exists()


def test_the_tables_of_the_attribution_page_are_those_of_its_report() -> None:
    page, report = (ROOT / "docs" / "attribution.md").read_text(), (ROOT / "docs" / "attribution" / "report.md").read_text()
    tables = re.findall(r"<!-- [\w ]+ -->\n((?:\|.*\n)+)", page)
    assert len(tables) == page.count("<!-- ") > 10
    for line in (line for one in tables for line in one.splitlines() if not line.startswith("| ---")):
        assert line in report, line


def test_the_readme_is_short_and_every_link_of_the_pages_leads_somewhere() -> None:
    assert len(README.splitlines()) <= 140
    for page in LINKED:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
        for file in re.findall(r"`((?:gcgap|attribution|importance)/[\w/]+\.\w+)`", page.read_text()):
            assert (ROOT / file).exists() or (ROOT / "gcgap" / file).exists(), f"{page.name}: {file}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert {page.name for page in LINKED[1:]} - {"index.md"} == set(re.findall(r"\]\((\w+\.md)\)", index))


def test_the_tables_of_the_study_are_those_of_the_report() -> None:
    reports = {name: (ROOT / "docs" / name / "report.md").read_text() for name in ("reproduction", "checks")}
    of = {"checks": "checks", "lengths": "checks"}
    for name in ("table 1", "cells", "verdict", "checks", "lengths"):
        report = reports[of.get(name, "reproduction")]
        shown = STUDY.split(f"<!-- {name} -->\n")[1].split("\n\n")[0].splitlines()
        assert len(shown) > 3, name
        for line in (line for line in shown if not line.startswith("| ---")):
            assert line in report or line.removesuffix("|") in report, line


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in FITS[1:] and not one.startswith("gcgap sweep")])
def test_a_command_of_the_readme_runs(command: str, checkout: Path) -> None:
    arguments = shlex.split(command)[1:]
    verifies = "--verify" in arguments  # the shipped records; 1 on a machine that rounds otherwise than the one they were made on
    for record in (checkout / "checkpoints" / "sort-seed42" / "gap").glob("*.json") if verifies else ():
        if record.name != "step=001000.json":
            record.unlink()
    before = tiny.files(checkout)
    assert main([*arguments, *([] if verifies else EXTRA.get(arguments[0], []))]) in ((0, 1) if verifies else (0,))
    check_clean(checkout, before)


def check_clean(checkout: Path, before: dict[str, bytes]) -> None:
    """A checkout in which a command has run is as `git status` would have it: nothing untracked, and no file changed."""
    after = tiny.files(checkout)
    changed = {name for name, content in before.items() if after.get(name) != content and not name.startswith("runs/")}
    assert changed <= {name for name in before if name.startswith("docs/reproduction/")}  # another version draws otherwise
    subprocess.run(["git", "init", "--quiet"], cwd=checkout, check=True)
    new = "".join(f"{name}\0" for name in set(after) - set(before))
    options = ["--no-index", "--stdin", "-z"]
    done = subprocess.run(["git", "check-ignore", *options], input=new, capture_output=True, text=True, cwd=checkout, check=False)
    assert set(done.stdout.split("\0")) == set(new.split("\0"))


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_python_of_the_readme_runs(snippet: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict = {}
    few = "sequences=8, gradient_batches=4, mean_batches=1, batch_size=8, resamples=100, random_pairs=1"
    exec(snippet.replace("sequences=32", few), names)
    assert len(names["record"].table()) == 20
    assert names["record"]["length"] == 9
    assert set(names["gcgap"].read("checkpoints")["task"]) == {"sort", "reverse"}


class Sixfold(nn.Module):
    """A model of a reader's own, with the names that the page on pretrained models has: six layers of eight heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.unembed = nn.Embedding(toy_tokens.VOCABULARY, 16), nn.Linear(16, toy_tokens.VOCABULARY)
        self.blocks: Any = nn.ModuleList(
            nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(16, 48), "out": nn.Linear(16, 16)}), "mlp": Down(16)})
            for _ in range(6)
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            q, k, v = block["attn"]["qkv"](x).unflatten(-1, (24, 2)).transpose(1, 2).chunk(3, 1)
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["attn"]["out"](mixed.transpose(1, 2).flatten(2))
            x = x + block["mlp"](x)
        return self.unembed(x)


class Down(nn.Module):
    """An MLP whose last matrix is called down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def test_the_python_of_the_page_on_pretrained_models_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SIZES | {"sequences": 6}
    monkeypatch.setattr(attribution, "default_protocol", lambda *given: replace(default_protocol(*given), **few))
    first, own = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pretrained.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(first, names)
    record = names["gcgap"].attribute(names["model"], protocol=names["gcgap"].Protocol().smallest())
    assert record["setup"]["baseline"] == "patch_prompt"
    assert set(record["methods"]) == set(METHODS)
    lines = [{"clean": f"the war of 17{year} and of 17", "answer": str(year), "wrong": str(year - 1)} for year in range(20, 50)]
    (checkout / "mine.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    names = {"network": Sixfold(), "encode": toy_tokens.pieces}
    exec(own.replace("50_000", str(toy_tokens.VOCABULARY)), names)
    assert names["model"].d_head == 2


def test_the_table_of_the_readme_is_that_of_the_shipped_record() -> None:
    console = Console(width=80, file=StringIO(), force_terminal=False)
    console.print(table(Record.read(ROOT / "checkpoints" / "sort-seed42" / "gap" / "final.json")))
    assert isinstance(console.file, StringIO)
    shown = [line.strip() for line in console.file.getvalue().splitlines()]
    told = [line.strip() for line in README.split("Expect this table:\n")[1].split("\nand in `runs")[0].splitlines()]
    assert " ".join(" ".join(told).split()) == " ".join(" ".join(shown).split())
    assert len(told) > 30


def test_every_file_that_the_readme_names_exists() -> None:
    for name in re.findall(r"`((?:gcgap|configs|checkpoints|tests)/[\w./-]*)`", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(((?!http)[^)]*)\)", README):
        assert (ROOT / name.partition("#")[0]).exists(), name
