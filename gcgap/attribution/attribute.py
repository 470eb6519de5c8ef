"""One attribution measurement: a model in, every method beside the exact effects out.

Owns the order of the stages; `gcgap.measurement.measure` is its counterpart for G and C, and
`gcgap.attribution.attribution_entries` says what of the results a record holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gcgap.attribution import attribution_entries as compose
from gcgap.attribution.advice import advice
from gcgap.attribution.defaults import MANY, default_protocol, default_setup, with_methods
from gcgap.attribution.drop import Drop, Passes
from gcgap.attribution.methods import Problem, find_methods
from gcgap.attribution.partial import Partial
from gcgap.attribution.scoring import forward_seconds, scored
from gcgap.attribution.sets import critical_sets, interactions, set_drops, single_drops
from gcgap.attribution.setup import Setup
from gcgap.attribution.shapley import standard_error
from gcgap.attribution.trust import trust
from gcgap.attribution.workflow import screen_flag_fix
from gcgap.data.batches import Purpose, generator
from gcgap.data.corruption import corruptions
from gcgap.importance.baselines import mean_activations
from gcgap.importance.experiment import Experiment, known_origin, prepare
from gcgap.importance.gap import Array, Judgement, bootstrap_means, measure_gap
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.importance.scores import Scores
from gcgap.models.transformer import Decoder, Origin
from gcgap.records.attribution_record import AttributionRecord

WINDOW = Protocol().sequences  # by which the window rule picks the length: the same one as a final measurement's
APART = 4  # times as many other sequences, cheap for exact effects, that methods are held against
FEW = 64  # sequences behind reliability, bounds and error split, whose curvature on a grid is what costs
TOLERANCE, CRITICAL = 0.05, 0.20  # exact match: the most that a dispensable component costs, the least that a critical set does
DECIDING = ("protocol", "model", "checkpoint_sha256", "length", "seed", "task", "prompts", "versions")
"""What all numbers follow from."""
STAGES = ("exact effects", "patching", "sets", "trust", "statistics")  # what is told to be done after the methods
AMONG = 20  # components with the largest effects whose pairs are measured then
SHARE = 50  # of the sequences then behind reliability, bounds and error split
SETS = 300  # sets that the search for critical ones tries at most


@torch.inference_mode(False)  # that of a caller, in which no gradient can be taken
def attribute(
    model: Decoder,
    task: str | None = None,
    *,
    setup: Setup | None = None,
    length: int | None = None,
    protocol: Protocol | None = None,
    origin: Origin | None = None,
    done: Callable[[str], object] = lambda stage: None,
    partial: Path | None = None,
) -> AttributionRecord:
    """Hold every attribution method of the protocol against exact effects on other sequences.

    Leaves the model as it was.

    Args:
        model: Such as `gcgap.load` or `gcgap.load_pretrained` gives.
        task: Name of the task; that of the model's origin by default.
        setup: What is intervened on: mean ablation by default, or of a model on prompts activation patching.
        length: Length of the OOD sequences. By default the paper's window rule picks it.
        protocol: Sizes and methods. By default those of `gcgap attribute`, whose methods are also run if it names none.
        origin: Where the model comes from; known for a model from `gcgap.load`.
        done: Called with the name of each stage and method that is done.
        partial: A folder that keeps what is done, so that the same call goes on where it was interrupted; whoever writes the
            record removes it.

    Raises:
        ValueError: Something asked for cannot be, or no OOD length lies inside the window.
        FloatingPointError: A score is not finite; the text names component and method.
    """
    origin = known_origin(model, task, origin)
    setup = setup or default_setup(origin.source)
    protocol = with_methods(protocol or default_protocol(model, origin.source), model)
    methods = find_methods(protocol.attribution.methods)
    model, wiring, source, length, record, seconds = prepare(model, origin, length, protocol, WINDOW)
    if length is None:
        found = ", ".join(f"{n}: {value:.1%}" for n, value in record["accuracy"]["by_length"].items())
        raise ValueError(f"no OOD length has an accuracy inside the window ({found}); give `--length`.")
    with seconds("mean"):
        means = source.batches(Purpose.MEAN, length, protocol.mean_batches, protocol.batch_size)
        mean = mean_activations(model, wiring, means, by_position=False)
    subject = Experiment(model, wiring, source, protocol, length, mean)
    problem = setup.problem(subject, subject.batch(length, protocol.sequences, index=1))
    apart = setup.drop(subject, subject.batch(length, APART * protocol.sequences))
    if partial is not None and record["checkpoint_sha256"] is None:
        raise ValueError("`partial` needs a model whose weights are known by a hash, or it might take those of others.")
    kept = Partial(partial, {key: record.get(key) for key in DECIDING} | {"setup": setup.to_dict()})
    with seconds("methods"):
        rows = scored(problem, methods, forward_seconds(problem.drop), done, kept)
    with seconds("exact"):
        effects, twins = (_effects(kept, name, drop) for name, drop in (("apart", apart), ("twins", problem.drop)))
        done("exact effects")
    with seconds("patching"):
        norms = next((one.samples for one in rows if one.method.name == "gradient"), None)
        patching = _patching(subject, problem, norms)
        done("patching")
    with seconds("sets"):
        sets = _sets(problem.drop, apart, setup)
        done("sets")
    with seconds("trust"):
        each, together = _trust(problem, setup, subject)
        done("trust")
    with seconds("statistics"):
        rng = generator(source.seed, Purpose.STATISTICS, length)
        parts = compose.body(wiring.components, protocol, rows, effects, twins, each, rng)
        done("statistics")
    workflow = screen_flag_fix(problem.drop, protocol.attribution.metric, protocol.attribution.budget, problem.random(1))
    return AttributionRecord(
        compose.head(record, setup)
        | parts
        | {"patching": patching, "sets": sets, "trust": together, "workflow": compose.workflow(wiring.components, workflow)}
        | {"advice": advice(parts["methods"], protocol.attribution.metric)}
        | {"seconds": seconds.by_stage}
    )


def _effects(kept: Partial, name: str, drop: Drop) -> Scores:
    """The exact effect of every component."""
    found = kept(name, lambda: {metric: of.numpy() for metric, of in single_drops(drop)._asdict().items()})
    return Scores(**{metric: torch.from_numpy(of) for metric, of in found.items()})


def _sets(drop: Drop, apart: Drop, setup: Setup) -> dict[str, Any]:
    """Pairwise interactions, and critical sets with their effect on sequences that did not choose them.

    Of many components only those with the largest effects are paired, and no set of all dispensable ones is shrunk.

    Denoising restores: a set that restores much is no critical one, so none are searched.
    """
    components, among = drop.wiring.components, None
    if many := drop.components > MANY:
        among = sorted(single_drops(drop).log_prob.mean(-1).abs().argsort(descending=True)[:AMONG].tolist())
    pairs = interactions(drop, compose.EFFECTS, among)
    names = None if among is None else [components[i].name for i in among]
    if setup.direction == "denoising":
        return compose.sets(components, pairs, None, {}, names)
    critical = critical_sets(drop, "exact_match", TOLERANCE, CRITICAL, SETS, shrink=not many)
    found = [one for one, _ in (*critical.sets, *([critical.greedy] if critical.greedy else []))]
    if not found:
        return compose.sets(components, pairs, critical, {}, names)
    again = set_drops(apart, found).exact_match
    means, errors = again.mean(-1).tolist(), standard_error(again).tolist()
    return compose.sets(components, pairs, critical, dict(zip(found, zip(means, errors, strict=True), strict=True)), names)


def _trust(problem: Problem, setup: Setup, subject: Experiment) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """How far the tangent can be trusted, on the first of the sequences."""
    size = FEW if problem.drop.components <= MANY else max(2, subject.protocol.sequences // SHARE)
    few = replace(problem.drop, batch=problem.drop.batch.rows(slice(size)), passes=Passes())
    other = setup.other_inputs(problem.clean, subject.source.seed)
    return trust(few, subject.protocol.attribution, None if other is None else other[:size])


def _patching(subject: Experiment, problem: Problem, norms: Array | None) -> dict[str, dict[str, compose.Entry]]:
    """The paper's third check: the gap between G and activation patching (noising, all positions), by corruption and metric.

    `norms` are the gradient magnitudes, (component, batch), if they are known already.
    """
    by = Judgement.of(subject.protocol)
    norms = gradient_norms(subject.model, subject.wiring, problem.gradients).numpy() if norms is None else norms
    clean = subject.batch(subject.length, subject.protocol.sequences)
    found = {}
    for corruption in corruptions(clean):
        patched = single_drops(Setup(Baseline(f"patch_{corruption}")).drop(subject, clean))
        rng = generator(subject.source.seed, Purpose.STATISTICS, subject.length)
        found[f"patch_{corruption}"] = {}
        for metric in compose.EFFECTS:
            drops = getattr(patched, metric).numpy()
            G, C = bootstrap_means(norms, drops[None], by.resamples, rng)
            found[f"patch_{corruption}"][metric] = compose.gap(measure_gap(norms, drops, (G, C[0]), by, rng))
    return found
