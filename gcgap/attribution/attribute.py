"""One attribution measurement: a model in, every method beside the exact effects out.

Owns the order of the stages and where each number stands in a record; `gcgap.measurement.measure` is its counterpart for G and C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gcgap.attribution.agreement import Entry, advice, compared_with_exact
from gcgap.attribution.drop import Drop, Passes
from gcgap.attribution.methods import PAIR_LIMIT, Problem, default_methods, default_stages, find_methods, screened
from gcgap.attribution.scoring import Partial, Scored, forward_seconds, scored
from gcgap.attribution.sets import critical_sets, interactions, single_drops
from gcgap.attribution.setup import Setup, default_protocol, default_setup
from gcgap.attribution.trust import trust
from gcgap.data.batches import Purpose, Source, generator
from gcgap.data.corruption import corruptions
from gcgap.importance.baselines import mean_activations
from gcgap.importance.experiment import Experiment, Stopwatch, known_origin, prepare
from gcgap.importance.gap import Array, Judgement, draws_of_drops, draws_of_means, measure_gap
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import PROMPTED, Baseline, Metric, Protocol, Stage
from gcgap.importance.scores import Scores, drop_unit
from gcgap.models.transformer import Decoder, Origin
from gcgap.records.attribution_record import KIND, AttributionRecord

EFFECTS = ("exact_match", "log_prob")  # the exact effects that every method is compared with
WINDOW_SEQUENCES = Protocol().sequences  # by which the window rule picks the length: the same one as a final measurement's
HELDOUT_FACTOR = 4  # times as many other sequences, cheap for exact effects of few components, that methods are compared on
TRUST_SEQUENCES = 64  # behind reliability, bounds and error split, whose curvature on a grid is what costs
TRUST_SHARE = 50  # of the sequences instead, of a model with more components than `PAIR_LIMIT`
PAIRED_COMPONENTS = 20  # those with the largest effects, whose pairs are measured then
TOLERANCE, CRITICAL = 0.05, 0.20  # exact match: the most that a dispensable component costs, the least that a critical set does
SET_LIMIT = 300  # sets that the search for critical ones tries at most
STAGES = ("exact effects", "patching", "sets", "trust", "statistics")  # reported to be done after the methods
DECIDING = ("protocol", "model", "checkpoint_sha256", "length", "seed", "task", "prompts", "versions")
"""What all numbers follow from."""


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
    """Compare every attribution method of the protocol with exact effects on other sequences.

    Leaves the model as it was.

    Args:
        model: Such as `gcgap.load` or `gcgap.load_pretrained` gives.
        task: Name of the task; that of the model's origin by default.
        setup: What is intervened on (not `protocol.baselines`): mean ablation by default, or of a model on prompts patching.
        length: Length of the OOD sequences. By default the paper's window rule picks it.
        protocol: Sizes and methods. By default those of `gcgap attribute`, whose methods are also run if it names none.
        origin: Where the model comes from; known for a model from `gcgap.load`.
        done: Called with the name of each stage and method that is done.
        partial: A folder that keeps what is done, so that the same call resumes where it was interrupted; whoever writes the
            record removes it.

    Raises:
        ValueError: Something asked for cannot be, or no OOD length lies inside the window.
        FloatingPointError: A score is not finite; the text names component and method.
    """
    origin = known_origin(model, task, origin)
    setup = setup or _usual_setup(origin.source, protocol)
    protocol = _with_methods(protocol, model, origin.source, setup.baseline)
    methods = find_methods(protocol.attribution.methods, setup.baseline)
    many = WINDOW_SEQUENCES if Stage.ACCURACY in protocol.attribution.stages or origin.source.only_length is None else None
    model, wiring, source, length, record, seconds = prepare(model, origin, length, protocol, many)
    if length is None:
        said = ", ".join(f"{n}: {value:.1%}" for n, value in record["accuracy"]["by_length"].items())
        raise ValueError(f"no OOD length has an accuracy inside the window ({said}); give `--length`.")
    with seconds("mean"):
        means = source.batches(Purpose.MEAN, length, protocol.mean_batches, protocol.batch_size)
        mean = mean_activations(model, wiring, means, by_position=False)
    subject = Experiment(model, wiring, source, protocol, length, mean)
    if setup.baseline == Baseline.OPTIMAL:
        with seconds("optimal"):
            subject.find_optimal()
    problem = setup.problem(subject, subject.batch(length, protocol.sequences, index=1))
    factor = HELDOUT_FACTOR if problem.drop.components <= PAIR_LIMIT else 1
    heldout = setup.drop(subject, subject.batch(length, factor * protocol.sequences))
    kept = _kept(partial, record, setup)
    with seconds("methods"):
        rows = scored(problem, methods, forward_seconds(problem.drop), done, kept)
    with seconds("exact"):
        effects, again = (_exact_effects(kept, name, drop) for name, drop in (("apart", heldout), ("twins", problem.drop)))
        done("exact effects")
    found = _optional(subject, problem, heldout, setup, rows, seconds, done)
    trust_of_each, of_all = found.pop("trust", (None, None))
    metric = protocol.attribution.metric
    with seconds("statistics"):
        components, compared = _compared(subject, rows, effects, again, trust_of_each)
        done("statistics")
    fixed = screened(problem).to_dict([component.name for component in wiring.components])
    return AttributionRecord(
        {"kind": KIND}
        | record
        | {"setup": setup.to_dict(), "components": components, "methods": compared}
        | (found if of_all is None else found | {"trust": of_all})
        | {"workflow": fixed, "advice": advice(compared, metric)}
        | {"seconds": seconds.by_stage}
    )


def _optional(
    subject: Experiment,
    problem: Problem,
    heldout: Drop,
    setup: Setup,
    rows: Sequence[Scored],
    seconds: Stopwatch,
    done: Callable[[str], object],
) -> dict[str, Any]:
    """What the stages find that can be left out, of those that are asked for."""
    norms = next((one.samples for one in rows if one.method.name == "gradient"), None)
    parts: dict[Stage, Callable[[], Any]] = {
        Stage.PATCHING: lambda: _patching(subject, problem, norms),
        Stage.SETS: lambda: _sets(problem.drop, heldout, setup),
        Stage.TRUST: lambda: _trust(problem, setup, subject),
    }
    found: dict[str, Any] = {}
    for stage, part in parts.items():
        if stage in subject.protocol.attribution.stages:
            with seconds(stage):
                found[str(stage)] = part()
        done(stage)
    return found


def _usual_setup(source: Source, protocol: Protocol | None) -> Setup:
    """The intervention by default; refused where the baselines of a protocol ask for another one."""
    setup, usual = default_setup(source), (Protocol().baselines, PROMPTED.baselines)
    if protocol is not None and protocol.baselines not in usual and setup.baseline not in protocol.baselines:
        raise ValueError(
            f"`setup` says what is intervened on, by default {setup.baseline}, which `protocol.baselines` lacks: "
            f"{', '.join(protocol.baselines)}. Give the one that you mean, such as `setup=Setup('{protocol.baselines[0]}')`."
        )
    return setup


def _with_methods(protocol: Protocol | None, model: Decoder, source: Source, baseline: Baseline) -> Protocol:
    """The protocol, by default that of `gcgap attribute`, with the methods and stages that suit a model if it names none."""
    protocol = protocol or default_protocol(model, source, baseline)
    settings = protocol.attribution
    methods, stages = settings.methods or default_methods(model, baseline), settings.stages or default_stages(model)
    return replace(protocol, attribution=replace(settings, methods=methods, stages=stages))


def _kept(partial: Path | None, record: Mapping[str, Any], setup: Setup) -> Partial:
    """What an interrupted call has left in the folder, of these very settings and weights."""
    if partial is not None and record["checkpoint_sha256"] is None:
        raise ValueError("`partial` needs a model whose weights are known by a hash, or it might take those of others.")
    return Partial(partial, {key: record.get(key) for key in DECIDING} | {"setup": setup.to_dict()})


def _compared(
    subject: Experiment, rows: Sequence[Scored], effects: Scores, again: Scores, trust_of_each: Sequence[Entry] | None
) -> tuple[list[Entry], dict[str, Entry]]:
    """Every component's effects and scores, and every method's agreement with the exact effects.

    `effects` are those on other sequences, `again` those on the scores' own.
    """
    metric, members = subject.protocol.attribution.metric, subject.wiring.components
    exact = {name: getattr(effects, name).numpy() for name in dict.fromkeys((*EFFECTS, metric))}
    exact_again = {name: getattr(again, name).mean(-1).numpy() for name in exact}
    rng, by = generator(subject.source.seed, Purpose.STATISTICS, subject.length), Judgement.of(subject.protocol)
    kinds, twin = [component.kind for component in members], (metric, exact_again[metric])
    found = compared_with_exact(kinds, rows, exact, by, rng, twin)
    components = [
        {"name": component.name, "layer": component.layer, "kind": component.kind}
        | {"exact": found.exact[i], "exact_again": {name: float(of[i]) for name, of in exact_again.items()}}
        | {"scores": found.scores[i]}
        | ({} if trust_of_each is None else {"trust": trust_of_each[i]})
        for i, component in enumerate(members)
    ]
    return components, found.methods


def track(
    subject: Experiment, baseline: Baseline, causal: Mapping[str, Array], rng: np.random.Generator
) -> tuple[dict[str, Any], list[Entry]]:
    """Score the protocol's methods on as many other sequences as C has, and compare them with C: each is a curve over training.

    Args:
        subject: The model under measurement.
        baseline: What replaces outputs.
        causal: C by metric, shape (component, sequence), under that baseline.
        rng: Draws resamples and halves.

    Returns:
        The record's `attribution`, and the scores of each component.
    """
    protocol, components = subject.protocol, subject.wiring.components
    index = 1 + len(components)  # beyond the batches that unpaired drops are measured on
    problem = Setup(baseline).problem(subject, subject.batch(subject.length, protocol.sequences, index))
    rows = scored(problem, find_methods(protocol.attribution.methods, baseline), forward_seconds(problem.drop))
    exact = {name: causal[name] for name in EFFECTS}
    found = compared_with_exact([component.kind for component in components], rows, exact, Judgement.of(protocol), rng)
    return {"baseline": str(baseline), "methods": found.methods}, found.scores


def _exact_effects(kept: Partial, name: str, drop: Drop) -> Scores:
    """The exact effect of every component by every metric, shape (component, sequence)."""
    found = kept(name, lambda: {metric: of.numpy() for metric, of in single_drops(drop)._asdict().items()})
    return Scores(**{metric: torch.from_numpy(of) for metric, of in found.items()})


def _sets(drop: Drop, heldout: Drop, setup: Setup) -> dict[str, Any]:
    """Pairwise interactions, and critical sets with their effect on sequences that did not choose them.

    Of many components only those with the largest effects are paired, and no set of all dispensable ones is shrunk.

    Denoising restores: a set that restores much is no critical one, so none are searched.
    """
    names, paired = [component.name for component in drop.wiring.components], None
    if many := drop.components > PAIR_LIMIT:
        largest = single_drops(drop).log_prob.mean(-1).abs().argsort(descending=True)
        paired = sorted(largest[:PAIRED_COMPONENTS].tolist())
    pairs = interactions(drop, EFFECTS, paired)
    critical = None
    if setup.direction == "noising":
        found = critical_sets(drop, "exact_match", TOLERANCE, CRITICAL, SET_LIMIT, shrink=not many)
        critical = found.to_dict(names, heldout)
    among = None if paired is None else [names[i] for i in paired]
    return {"interactions": {name: of.to_dict() for name, of in pairs.items()}, "among": among, "critical": critical}


def _trust(problem: Problem, setup: Setup, subject: Experiment) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """How far the tangent can be trusted, on the first of the sequences."""
    few = problem.drop.components <= PAIR_LIMIT
    size = TRUST_SEQUENCES if few else max(2, subject.protocol.sequences // TRUST_SHARE)
    first = replace(problem.drop, batch=problem.drop.batch.rows(slice(size)), passes=Passes())
    other = setup.other_inputs(problem.clean, subject.source.seed)
    return trust(first, subject.protocol.attribution, None if other is None else other[:size])


def _patching(subject: Experiment, problem: Problem, norms: Array | None) -> dict[str, dict[str, Entry]]:
    """The paper's third check: the gap between G and activation patching (noising, all positions), by corruption and metric.

    `norms` are the gradient magnitudes, (component, batch), if they are known already.
    """
    by = Judgement.of(subject.protocol)
    norms = gradient_norms(subject.model, subject.wiring, problem.gradients).numpy() if norms is None else norms
    clean = subject.batch(subject.length, subject.protocol.sequences)
    found: dict[str, dict[str, Entry]] = {}
    for corruption in corruptions(clean):
        patched = single_drops(Setup(Baseline(f"patch_{corruption}")).drop(subject, clean))
        rng = generator(subject.source.seed, Purpose.STATISTICS, subject.length)
        found[f"patch_{corruption}"] = {}
        for metric in EFFECTS:
            drops = getattr(patched, metric).numpy()
            G = draws_of_means(norms, by.resamples, rng)
            (C,) = draws_of_drops(drops[None], [drop_unit(Metric(metric), clean.last)], by.resamples, rng)
            gap = measure_gap(norms, drops, (G, C), by, rng)
            numbers = {key: getattr(gap, key) for key in ("rho", "ci", "p_value", "ceiling", "ceiling_ci", "corrected")}
            found[f"patch_{corruption}"][metric] = numbers | {"reason": gap.reason or None}
    return found
