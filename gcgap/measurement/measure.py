"""One measurement: a model in, a record out.

Owns the order of the stages, and which number stands where in a record (schema 1). The quantities are in `gcgap.importance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import torch

from gcgap.attribution.attribute import track
from gcgap.attribution.methods import find_methods
from gcgap.data.batches import Batch, Purpose, generator
from gcgap.importance.ablation import Intervention
from gcgap.importance.activity import activation_norms, attention_entropies
from gcgap.importance.baselines import mean_activations
from gcgap.importance.experiment import Experiment, known_origin, prepare
from gcgap.importance.gap import Array, Estimate, Gap, Judgement, draws_of_drops, draws_of_means, measure_gap
from gcgap.importance.gauges import CANONICAL, DRAWS, SCALE_FACTOR, random_scales, rho_range, roles_kept
from gcgap.importance.gradient import weight_sizes
from gcgap.importance.protocol import PROMPTED, Baseline, Metric, Protocol
from gcgap.importance.scores import drop_unit
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.measurement.joint import removal
from gcgap.models.transformer import Decoder, Origin
from gcgap.models.wiring import Component, Wiring
from gcgap.records.record import Record

NO_GAUGES = "scaling the values of the heads changes the logits, so something between values and W_O is not linear in them"
Gaps = Mapping[Baseline, Mapping[str, Gap]]
"""The gap by baseline and metric."""


@torch.inference_mode(False)  # that of a caller, in which no gradient can be taken
def measure(
    model: Decoder,
    task: str | None = None,
    *,
    length: int | None = None,
    protocol: Protocol | None = None,
    origin: Origin | None = None,
    sharing: Sharing = ALONE,
) -> Record:
    """Measure what each component's gradient is and what it causes.

    Leaves the model as it was: weights, `.grad`, mode, hooks and every random generator.

    Args:
        model: Such as `gcgap.load` or `gcgap.load_pretrained` gives.
        task: Name of the task; that of the model's origin by default.
        length: Length of the OOD sequences. By default the paper's window rule picks it.
        protocol: What is measured, and how; by default `Protocol()`, or of a model on prompts
            `gcgap.importance.protocol.PROMPTED`.
        origin: Where the model comes from; known for a model from `gcgap.load`.
        sharing: The processes that all make this call and share its work; each gets the whole record.

    Returns:
        The record. If the window rule finds no length the record says so and holds no components.

    Raises:
        ValueError: An unknown task, no task, or a length that the model cannot read.
        FloatingPointError: A weight, or what the model gives, is NaN or Inf.
    """
    origin = known_origin(model, task, origin)
    protocol = protocol or (Protocol() if origin.source.only_length is None else PROMPTED)
    find_methods(protocol.attribution.methods, protocol.baselines[0])
    model, wiring, source, length, record, seconds = prepare(model, origin, length, protocol, sharing=sharing)
    if length is None:
        return Record(record | skipped(protocol, record["accuracy"]) | {"seconds": seconds.by_stage})
    with seconds("mean"):
        means = source.batches(Purpose.MEAN, length, protocol.mean_batches, protocol.batch_size)
        mean = mean_activations(model, wiring, means, by_position=False, sharing=sharing)
        experiment, activity = (
            Experiment(model, wiring, source, protocol, length, mean, sharing),
            _activity(model, wiring, means[0]),
        )
    if Baseline.OPTIMAL in protocol.baselines:
        with seconds("optimal"):
            experiment.find_optimal()
    with seconds("gradient"):
        gauged = experiment.gradient()
        G = Estimate(gauged.samples[0])
    with seconds("causal"):
        C = _causal(experiment)
    rng = generator(source.seed, Purpose.STATISTICS, length)
    with seconds("statistics"):
        gaps, draws = _gaps(G, C, experiment.metrics, protocol, means[0].last, rng)
        record["gauges"] = gauges(experiment, gauged, C, generator(source.seed, Purpose.GAUGES, length))
    record |= body(wiring.components, protocol, G, weight_sizes(model, wiring), activity, C, gaps, draws)
    with seconds("pruning"):
        _add_removals(record, experiment, G, C, gaps, rng)
    if protocol.attribution.methods:  # last, so that every other number is that of a measurement without
        with seconds("attribution"):
            _add_attribution(record, experiment, C, rng)
    return Record(record | {"seconds": seconds.by_stage})


def _activity(model: Decoder, wiring: Wiring, batch: Batch) -> tuple[Array, Array | None]:
    """Activation norms (component,) and attention entropies (layer, head), if the model shows its attention."""
    entropies = attention_entropies(model, batch).numpy() if model.shows_patterns else None
    return activation_norms(model, wiring, batch).numpy(), entropies


def _add_removals(
    record: dict[str, Any], experiment: Experiment, G: Estimate, C: Estimate, gaps: Gaps, rng: np.random.Generator
) -> None:
    """What removing sets costs, and what each component causes on sequences that did not make its role."""
    exact = {baseline: of["exact_match"] for baseline, of in gaps.items()}
    blocks, singles = removal(experiment, G.value, C.value[:, 0], exact, rng)
    record |= blocks
    for component, single in zip(record["components"], singles, strict=True):
        component |= single


def _add_attribution(record: dict[str, Any], experiment: Experiment, C: Estimate, rng: np.random.Generator) -> None:
    """The scores of the protocol's attribution methods, compared with C."""
    drops: dict[str, Array] = dict(zip(experiment.metrics, C.samples[0], strict=True))
    record["attribution"], scores = track(experiment, experiment.protocol.baselines[0], drops, rng)
    for component, of_methods in zip(record["components"], scores, strict=True):
        component["attribution"] = of_methods


def _causal(experiment: Experiment) -> Estimate:
    """C of every single component, shape (baseline, metric, component, sequence)."""
    p, n = experiment.protocol, len(experiment.wiring.components)
    singles = [Intervention(frozenset([member]), baseline) for baseline in p.baselines for member in range(n)]
    if p.paired:
        found = experiment.ablation(singles, experiment.batch(experiment.length, p.sequences))
    else:
        found = experiment.unpaired_ablation(singles, experiment.length, p.sequences)
    return Estimate(found.samples.reshape(len(experiment.metrics), len(p.baselines), n, -1).swapaxes(0, 1))


def _gaps(
    G: Estimate, C: Estimate, metrics: Sequence[str], protocol: Protocol, scored: int, rng: np.random.Generator
) -> tuple[Gaps, tuple[Array, Array]]:
    """The gap for every baseline and metric, and the draws of G and C that their intervals are made of."""
    by, shape = Judgement.of(protocol), C.samples.shape
    units = [drop_unit(Metric(metric), scored) for metric in metrics] * len(protocol.baselines)
    star_g = draws_of_means(G.samples, by.resamples, rng)
    star_c = draws_of_drops(C.samples.reshape(-1, *shape[2:]), units, by.resamples, rng).reshape(*shape[:3], -1)
    gaps = {
        baseline: {
            metric: measure_gap(G.samples, C.samples[b, m], (star_g, star_c[b, m]), by, rng) for m, metric in enumerate(metrics)
        }
        for b, baseline in enumerate(protocol.baselines)
    }
    return gaps, (star_g, star_c)


def gauges(experiment: Experiment, gauged: Estimate, C: Estimate, rng: np.random.Generator) -> dict[str, Any]:
    """G and the gap in every canonical gauge of the heads, and how far random head scales move them.

    Args:
        experiment: The model under measurement.
        gauged: G by gauge, as trained first.
        C: Causal importances, samples of shape (baseline, metric, component, sequence).
        rng: Draws resamples and scales.
    """
    if not experiment.has_gauges():
        return {"reason": NO_GAUGES}
    p, by, drops = experiment.protocol, Judgement.of(experiment.protocol), C.value[:, 0]
    scaled, by_gauge = random_scales(gauged.value[0], experiment.wiring, DRAWS, rng), {}
    for gauge, samples in zip(CANONICAL, gauged.samples[1:], strict=True):
        found, _ = _gaps(Estimate(samples), Estimate(C.samples[:, :1]), ("exact_match",), p, 1, rng)
        exact = {baseline: of["exact_match"] for baseline, of in found.items()}
        by_gauge[gauge] = {
            "gradient": samples.mean(-1).tolist(),
            "gap": {baseline: _gap_entry(of, p) for baseline, of in exact.items()},
            "role": {baseline: of.role for baseline, of in exact.items()},
        }
    ranges = {baseline: rho_range(scaled, drop, by) for baseline, drop in zip(p.baselines, drops, strict=True)}
    kept = {b: roles_kept(gauged.value[0], scaled, drop, by) for b, drop in zip(p.baselines, drops, strict=True)}
    return {
        "by_gauge": by_gauge,
        "random_scales": {"factor": SCALE_FACTOR, "draws": DRAWS, "rho": ranges, "roles_kept": kept},
    }


def skipped(protocol: Protocol, accuracy: dict[str, Any]) -> dict[str, Any]:
    """The rest of a record whose model has no OOD length inside the window: no component, and the reason."""
    low, high = protocol.window
    found = ", ".join(f"{length}: {value:.1%}" for length, value in accuracy["by_length"].items())
    reason = f"no OOD length has an accuracy in [{low:.0%}, {high:.0%}] ({found})"
    gap = {baseline: _gap_entry(Gap(reason=reason), protocol) for baseline in protocol.baselines}
    return {"skipped": reason, "components": [], "layers": [], "gap": gap, "pruning": {}, "joint": {}, "sets": {}}


def body(
    components: Sequence[Component],
    protocol: Protocol,
    G: Estimate,
    sizes: Sequence[int],
    activity: tuple[Array, Array | None],
    C: Estimate,
    gaps: Gaps,
    draws: tuple[Array, Array],
) -> dict[str, Any]:
    """Components, layers and gaps.

    Args:
        components: In the order of the arrays.
        protocol: What was measured.
        G: Gradient magnitudes, divided by sqrt(N_i) or not as the protocol says.
        sizes: N_i, the numbers of entries of the weights.
        activity: Activation norms (component,) and attention entropies (layer, head), if the model shows its attention.
        C: Causal importances, samples of shape (baseline, metric, component, sequence).
        gaps: The gap by baseline and metric, exact match first.
        draws: Draws of G (component, resample) and C (baseline, metric, component, resample).
    """
    interval = Judgement.of(protocol).interval
    causal = C.value
    entropies = repeat(None) if activity[1] is None else map(float, activity[1].flat)
    entries = []
    for i, component in enumerate(components):
        drop = {
            baseline: {
                metric: {"value": float(causal[b, m, i]), "ci": interval(draws[1][b, m, i])}
                for m, metric in enumerate(gaps[baseline])
            }
            for b, baseline in enumerate(protocol.baselines)
        }
        entries.append(
            {
                "name": component.name,
                "layer": component.layer,
                "kind": component.kind,
                "activation_norm": float(activity[0][i]),
                "attention_entropy": next(entropies) if component.kind == "head" else None,
                "gradient": _gradient(float(G.value[i]), sizes[i], protocol) | {"ci": interval(draws[0][i])},
                "causal": drop,
                "delta": {baseline: _by_metric(gaps[baseline], i, _delta) for baseline in protocol.baselines},
                "role": {baseline: _by_metric(gaps[baseline], i, _role) for baseline in protocol.baselines},
            }
        )
    summary = {
        baseline: _gap_entry(gaps[baseline]["exact_match"], protocol)
        | {"by_metric": {metric: _gap_entry(gaps[baseline][metric], protocol) for metric in list(gaps[baseline])[1:]}}
        for baseline in protocol.baselines
    }
    return {"components": entries, "layers": _layers(entries, protocol.baselines), "gap": summary}


def _gradient(value: float, size: int, protocol: Protocol) -> dict[str, float]:
    """G as the protocol says, and both with and without the division by sqrt(N_i)."""
    root = size**0.5
    both = (value * root, value) if protocol.normalise_gradient else (value, value / root)
    return {"value": value, "raw": both[0], "normalised": both[1]}


def _by_metric(gaps: Mapping[str, Gap], i: int, entry: Any) -> dict[str, Any]:
    """An entry by exact match, with those by the other metrics inside."""
    return entry(gaps["exact_match"], i) | {"by_metric": {metric: entry(gaps[metric], i) for metric in list(gaps)[1:]}}


def _delta(gap: Gap, i: int) -> dict[str, Any]:
    if gap.delta is None or gap.delta_ci is None:
        return {"value": None, "ci": None}
    return {"value": gap.delta[i], "ci": gap.delta_ci[i]}


def _role(gap: Gap, i: int) -> dict[str, Any]:
    if gap.role is None or gap.probability is None:
        return {"name": None, "probability": None, "probabilities": None}
    every = {role: of_all[i] for role, of_all in gap.probability.items()}
    return {"name": gap.role[i], "probability": every[gap.role[i]], "probabilities": every}


def _gap_entry(gap: Gap, protocol: Protocol) -> dict[str, Any]:
    """The part of a Gap that speaks of all components together."""
    count = None if gap.counts is None else gap.counts[f"{protocol.threshold:g}"]
    by_chance = count and {"heroes": count["heroes_by_chance"], "bloats": count["bloats_by_chance"]}
    return {
        "rho": gap.rho,
        "ci": gap.ci,
        "p_value": gap.p_value,
        "ceiling": gap.ceiling,
        "ceiling_ci": gap.ceiling_ci,
        "corrected": gap.corrected,
        "reason": gap.reason or None,
        "heroes": count and count["heroes"],
        "bloats": count and count["bloats"],
        "expected_by_chance": by_chance,
        "by_threshold": gap.counts,
        "missed": gap.missed,
    }


def _layers(entries: list[dict[str, Any]], baselines: Sequence[str]) -> list[dict[str, Any]]:
    """Per layer: mean gradient norm, and how many Heroes and Bloats, over the heads and over all components."""
    layers = []
    for layer in sorted({entry["layer"] for entry in entries}):
        groups = {"all": [entry for entry in entries if entry["layer"] == layer]}
        groups["heads"] = [entry for entry in groups["all"] if entry["kind"] == "head"]
        layers.append(
            {"layer": layer}
            | {
                group: {"gradient": float(np.mean([entry["gradient"]["value"] for entry in members]))}
                | {baseline: _role_counts(members, baseline) for baseline in baselines}
                for group, members in groups.items()
            }
        )
    return layers


def _role_counts(entries: list[dict[str, Any]], baseline: str) -> dict[str, int] | None:
    names = [entry["role"][baseline]["name"] for entry in entries]
    return None if None in names else {"heroes": names.count("hero"), "bloats": names.count("bloat")}
