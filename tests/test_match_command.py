"""`gcgap match`: a known permutation is recovered, errors say what to do, and a report shows the record."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gcgap.cli import main
from gcgap.commands.match_command import match_models
from gcgap.data.batches import Batch, Purpose, Source
from gcgap.importance.baselines import mean_activations
from gcgap.importance.gates import gated
from gcgap.importance.profiles import Look, Profiles, profiles
from gcgap.importance.protocol import Protocol
from gcgap.models.checkpoints import load
from gcgap.models.transformer import Decoder, Transformer
from gcgap.models.wiring import Wiring
from gcgap.records.matching_record import MatchingRecord
from gcgap.study.evidence import heads_not_layers
from gcgap.study.groups import gather, with_matchings
from gcgap.study.matching import partners, similarity

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "checkpoints" / "sort-seed42"
ORDER = ((2, 0, 3, 1), (1, 0, 2, 3), (3, 2, 1, 0), (0, 3, 1, 2))
"""Which head of the shipped model each head of the permuted one is, layer by layer."""


def permuted(model: Transformer) -> Transformer:
    """The same function with the heads of each layer in another order."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block, order in zip(model.blocks, ORDER, strict=True):
            columns = torch.arange(model.d_model).unflatten(0, (model.n_heads, -1))[list(order)].flatten()
            for linear in (block.attention.W_Q, block.attention.W_K, block.attention.W_V):
                linear.weight.copy_(linear.weight[columns].clone())
                linear.bias.copy_(linear.bias[columns].clone())
            block.attention.W_O.weight.copy_(block.attention.W_O.weight[:, columns].clone())
    return model


def profiled(model: Decoder, task: str = "sort", rows: int = 24) -> tuple[Profiles, Batch]:
    wiring, source = Wiring.of(model), Source(task, seed=0)
    batch = source.batch(Purpose.EVALUATION, 8, rows)
    means = source.batches(Purpose.MEAN, 8, 2, 32)
    return profiles(model, wiring, batch, mean_activations(model, wiring, means, by_position=False)), batch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over few sequences, few permutations (tests/test_study_matching.py), no figures of ordinary runs."""
    monkeypatch.setattr("gcgap.commands.match_command.Protocol", lambda: Protocol(mean_batches=2))
    monkeypatch.setattr("gcgap.study.matching.PERMUTATIONS", 250)
    monkeypatch.setattr("gcgap.report.contents._figures", lambda group: [])


@pytest.fixture(scope="module")
def shipped() -> Any:
    return load(SHIPPED).double()


def test_a_known_permutation_is_recovered(shipped: Transformer) -> None:
    (first, _), (second, _) = profiled(shipped), profiled(permuted(shipped))
    expected = np.concatenate([4 * layer + np.array(order) for layer, order in enumerate(ORDER)])
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one[expected], other, atol=1e-9)
        for layer in (np.repeat(range(4), 4), np.zeros(16, int)):
            assert partners(similarity(other.numpy(), one.numpy()), layer, np.random.default_rng(0)).tolist() == expected.tolist()


def test_drops_are_those_of_one_head_at_a_time(shipped: Transformer) -> None:
    found, batch = profiled(shipped)
    wiring = Wiring.of(shipped)
    mean = mean_activations(shipped, wiring, Source("sort", seed=0).batches(Purpose.MEAN, 8, 2, 32), by_position=False)
    head = next(i for i, one in enumerate(wiring.components) if one.name == "L1_H2")
    gates = torch.zeros(len(batch.inputs), len(wiring.components)).double()
    gates[:, head] = 1
    (targets,) = batch.answers(slice(None), torch.device("cpu"))

    def log_prob() -> torch.Tensor:
        logits = shipped(batch.inputs)[:, -batch.last :]
        return torch.distributions.Categorical(logits=logits).log_prob(targets)

    with torch.no_grad():
        base = log_prob()
        with gated(shipped, wiring, gates, mean):
            ablated = log_prob()
    assert torch.allclose(found.drops[4 + 2], base - ablated, atol=1e-9)


def test_every_look_is_counted_once_and_by_hand(shipped: Transformer) -> None:
    found, batch = profiled(shipped)
    assert torch.allclose(found.looks.sum(-1), torch.ones(1).double())
    with torch.no_grad():
        patterns = shipped.patterns(batch.inputs)
    row, place, n = 5, 3, batch.inputs.shape[1]  # the query that reads the third integer of the output
    tokens, query = batch.inputs[row].tolist(), n - batch.last + place
    answer, own = int(batch.targets[row, query]), tokens[query]
    sums = dict.fromkeys(Look, 0.0)
    for key, token in enumerate(tokens[: query + 1]):
        names = [Look.START] * (token == 101) + [Look.SEP] * (token == 102) + [Look.ANSWER] * (token == answer)
        names += [Look.SAME] * (token == own and key != query) + [Look.ITSELF] * (key == query)
        names += [Look.PREVIOUS] * (key == query - 1) + [Look.INPUT if key < n - batch.last else Look.OUTPUT]
        sums[names[0]] += float(patterns[2][row, 1, query, key])
    assert found.looks[2 * 4 + 1, row, place].tolist() == pytest.approx(list(sums.values()), abs=1e-12)


def test_a_model_matches_its_permuted_self(shipped: Transformer) -> None:
    other = permuted(shipped)
    found = match_models([shipped, other], [None, None], 8, 40, 0)
    for one in found["by"].values():
        assert one["matched"]["value"] == pytest.approx(1)
        assert one["own_layer"]["value"] == 1
        assert one["roles"] is None
        (within,) = one["within"]
        assert [within[4 * layer + head] % 4 for layer, order in enumerate(ORDER) for head in order] == [0, 1, 2, 3] * 4
    assert found["by"]["looks"]["same_number"]["value"] < 0.95


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one training: its shipped weights, and the same heads in another order by other numbers."""
    base, runs = tmp_path_factory.mktemp("runs"), []
    for seed in (1, 2):
        home = base / f"sort-seed{seed}"
        model = load(SHIPPED)
        assert isinstance(model, Transformer)
        content = torch.load(next((SHIPPED / "checkpoints").glob("step=*.ckpt")), weights_only=True)
        changed = permuted(model) if seed == 2 else model
        content["state_dict"] = {f"model.{name}": value for name, value in changed.state_dict().items()}
        content["datamodule_hyper_parameters"]["seed"] = seed
        (home / "checkpoints").mkdir(parents=True)
        torch.save(content, home / "checkpoints" / "step=001000.ckpt")
        digest = load(home).origin.checkpoint_sha256
        record = json.loads((SHIPPED / "gap" / "final.json").read_text()) | {"seed": seed, "checkpoint_sha256": digest}
        del record["sha256"]
        if seed == 2:
            _permute_heads(record)
        (home / "gap").mkdir()
        (home / "gap" / "final.json").write_text(json.dumps(record))
        runs.append(home)
    return runs


def _permute_heads(record: dict[str, Any]) -> None:
    roles = {one["name"]: one["role"] for one in record["components"]}
    for one in record["components"]:
        if found := re.fullmatch(r"L(\d)_H(\d)", one["name"]):
            layer, head = map(int, found.groups())
            one["role"] = roles[f"L{layer}_H{ORDER[layer][head]}"]


def test_the_command_writes_a_record_that_a_report_shows(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "matching-sort.json"
    arguments = ["match", *map(str, two), "--out", str(out), "--sequences", "40"]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Between 2 trainings on sorting" in said
    assert "100 % of partners lie in the same layer" in said
    record = MatchingRecord.read(out)
    assert out.stat().st_size < 20_000
    assert [one["seed"] for one in record["runs"]] == [1, 2]
    assert record["group"] == "default"
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["report", *map(str, two), str(out), "--out", str(tmp_path / "report"), "--records"]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Heads between seeds: sorting" in text
    assert MatchingRecord.read(tmp_path / "report" / "matching-sort.json")["runs"] == record["runs"]
    capsys.readouterr()
    assert main(["report", str(out), str(out), "--out", str(tmp_path / "alone")]) == 0
    assert "index.html: 1 record of matched heads." in capsys.readouterr().out
    (tmp_path / "matching-folder.json").mkdir()
    assert main(["match", *map(str, two), "--out", str(tmp_path / "matching-folder.json"), "--force"]) == 2
    assert "is a folder" in capsys.readouterr().err
    (group,) = with_matchings(gather(two), [record])
    assert "Roles are not compared" not in said
    (two[0] / "gap" / "final.json").rename(kept := tmp_path / "final.json")
    assert main([*arguments, "--force"]) == 0
    assert "Roles are not compared" in " ".join(capsys.readouterr().out.split())
    kept.rename(two[0] / "gap" / "final.json")
    evidence = heads_not_layers(group)
    assert "Matched by where they look" in evidence.text
    assert "Matched" not in heads_not_layers(replace(group, matchings=())).text
    assert evidence.p == pytest.approx(min(1, 4 * min(_p_values(group, record))))


def _p_values(group: Any, record: MatchingRecord) -> list[float]:
    by_number = heads_not_layers(replace(group, matchings=())).p
    assert by_number is not None
    return [by_number / 2, *(one["p_value"] for one in record.roles("looks").values())]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{0}"], "between two runs or more; got 1"),
        (["{0}", "{0}"], "are the same weights"),
        (["{0}", "{reverse}"], "Runs must be of one task and one size"),
        (["{0}", "{1}", "--out", "x.json"], "must be named matching*.json"),
        (["{0}", "{1}", "--sequences", "3"], "`--sequences` must be at least 4"),
        (["{0}", "{1}", "--length", "40"], "`--length` must be between 1 and 31"),
        (["{0}", "missing"], "`missing` does not exist"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    two: list[Path], arguments: list[str], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [one.format(*two, reverse=ROOT / "checkpoints" / "reverse-seed42") for one in arguments]
    given += [] if "--out" in given else ["--out", str(tmp_path / "matching.json")]
    assert main(["match", *given]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
