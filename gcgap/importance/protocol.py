"""The protocol: every setting that shapes a measurement's numbers, in one place.

The same block `protocol:` of a config serves `gcgap fit` and `gcgap measure`. Plain values only, so that a protocol can be read
without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

T = TypeVar("T")


class Choice(StrEnum):
    """An enum that is read, written and shown by its values, like plain text."""

    def __repr__(self) -> str:
        return repr(self.value)

    @classmethod
    def of(cls, value: str, key: str) -> Self:
        """The member of a value; a ValueError names the setting `key`."""
        if value not in list(cls):
            raise ValueError(f"`{key}` must be one of {', '.join(cls)}; got {value!r}.")
        return cls(value)


class Baseline(Choice):
    """What replaces the output of an ablated component; `gcgap.importance.baselines` has a function for each."""

    MEAN = "mean"
    """Its mean over batch and positions of a separate set of OOD batches."""
    MEAN_BY_POSITION = "mean_by_position"
    """Its mean over the batch at each position, over a separate set of batches of the evaluated length."""
    ZERO = "zero"
    """The zero vector."""
    RESAMPLE = "resample"
    """Its output on another random example of the same length, that example's target included."""
    OPTIMAL = "optimal"
    """The constant that harms least when it alone is replaced, found by gradient descent on the sequences of the means."""
    PATCH_SEQUENCE = "patch_sequence"
    """Activation patching: its output where other random integers stand in the input, and the target stays."""
    PATCH_TOKEN = "patch_token"
    """Activation patching: its output where one integer of the input is another one, and the target stays."""
    PATCH_SWAP = "patch_swap"
    """Activation patching: its output where two neighbouring integers of the input are swapped, and the target stays."""
    PATCH_PROMPT = "patch_prompt"
    """Activation patching: its output on the prompt's corrupted twin."""

    @property
    def corruption(self) -> str | None:
        """How activation patching makes the corrupted input, a value of `Corruption`; None for ablation."""
        return self.removeprefix("patch_") if self.startswith("patch_") else None


class Site(Choice):
    """Where a head is replaced."""

    COMPONENT = "component"
    """At the input of W_O: z_h itself, so exactly what head h writes is replaced."""
    RELEASED = "released"
    """As the first public pipeline does: columns h d_head .. (h+1) d_head of the *output* of W_O are overwritten by the
    replacement of z_h. That removes a slice of what all heads write together, not a head. MLPs are as in `component`."""


class Ranks(Choice):
    """How tied values are ranked."""

    AVERAGE = "average"
    """All get the mean of their ranks."""
    ORDINAL = "ordinal"
    """By position, which makes early layers look like Bloats."""


class NumberFormat(Choice):
    """What a model computes in while it is measured; see `gcgap.models.number_format`."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BF16 = "bf16"


class Metric(Choice):
    """How well a model did on one sequence, larger is better; `gcgap.importance.scores` has a function for each."""

    EXACT_MATCH = "exact_match", "share of sequences"
    LOG_PROB = "log_prob", "nats per scored token"
    TOKEN_ACCURACY = "token_accuracy", "share of scored tokens"
    LOGIT_DIFFERENCE = "logit_difference", "logits"
    PROBABILITY_DIFFERENCE = "probability_difference", "probability"

    unit: str

    def __new__(cls, value: str, unit: str) -> Self:
        """A metric with the unit of its drops."""
        metric = str.__new__(cls, value)
        metric._value_, metric.unit = value, unit
        return metric

    @property
    def has_gradient(self) -> bool:
        """Whether attribution methods can differentiate it."""
        return self in (Metric.LOG_PROB, Metric.LOGIT_DIFFERENCE, Metric.PROBABILITY_DIFFERENCE)

    @property
    def only_prompts(self) -> bool:
        """Whether records hold it for prompts alone."""
        return self in (Metric.LOGIT_DIFFERENCE, Metric.PROBABILITY_DIFFERENCE)


Option = Annotated[T, "chosen by value"]
Differentiable = Metric


class Stage(Choice):
    """A part of an attribution; all but the methods can be left out."""

    METHODS = "methods"
    """Every method's scores beside the exact effects, and Screen-Flag-Fix."""
    ACCURACY = "accuracy"
    """Accuracy on as many sequences as a final measurement takes, instead of as many as are scored."""
    PATCHING = "patching"
    """The gradient's magnitude against activation patching."""
    SETS = "sets"
    """Pairwise interactions, and the smallest sets that only together are needed."""
    TRUST = "trust"
    """Reliability, bounds, and where the error of attribution patching comes from."""


if not TYPE_CHECKING:  # jsonargparse would show and read an enum by the names of its members

    class Option:
        """`Option[Site]` is `Literal["component", "released"]`."""

        def __class_getitem__(cls, choices: Iterable[str]) -> Any:
            return Literal[tuple(map(str, choices))]

    Differentiable = [metric for metric in Metric if metric.has_gradient]


@dataclass(frozen=True)
class Sizes:
    """How many batches and sequences one measurement uses.

    Args:
        gradient_batches: OOD batches B over which the gradient magnitude G is averaged.
        mean_batches: OOD batches over which the means of mean ablation are taken.
        sequences: Evaluation sequences per length, the same ones for the base and every ablated accuracy.
        resamples: Bootstrap resamples behind every interval (at least 100); as many permutations behind every p-value.
        random_pairs: Pairs of components drawn at random, whose pruning is what pruning of the top two is compared with.
        inside: Also measure every component on other sequences: held-out ones, and in distribution.
    """

    gradient_batches: int = 50
    mean_batches: int = 50
    sequences: int = 500
    resamples: int = 1000
    random_pairs: int = 10
    inside: bool = True

    def __post_init__(self) -> None:
        least = {"gradient_batches": 2, "mean_batches": 1, "sequences": 2, "resamples": 100, "random_pairs": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"`protocol`: `{name}` must be at least {smallest}; got {getattr(self, name)}.")


@dataclass(frozen=True)
class Tracking(Sizes):
    """When checkpoints are measured during training, at which length, and with what sizes (smaller than the final ones).

    They are measured again with the same sizes.

    Args:
        length: Length of the OOD sequences (integers per example); one curve needs one length.
        dense_every: Measure every so many optimiser steps ..
        dense_until: .. up to this step ..
        then_every: .. and every so many afterwards; step 0 and the last step are always measured.
    """

    length: int = 9
    dense_every: int = 50
    dense_until: int = 500
    then_every: int = 250
    gradient_batches: int = 10
    mean_batches: int = 10
    sequences: int = 100
    resamples: int = 200
    random_pairs: int = 0
    inside: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dense_every", "then_every", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`protocol.tracking.{name}` must be at least 1; got {getattr(self, name)}.")

    def due(self, step: int) -> bool:
        """Whether the checkpoint of this optimiser step is measured."""
        return step % (self.dense_every if step <= self.dense_until else self.then_every) == 0


@dataclass(frozen=True)
class Attribution:
    """Which attribution methods are run beside the exact effects, and how finely.

    Args:
        methods: Names of attribution methods; `gcgap attribute --list-methods` prints them.
        metric: What gates are differentiated in: `log_prob`, the mean log-probability of the target (nats per scored token; the
            loss with its sign turned), `logit_difference`, the target's logit minus the largest other one, or
            `probability_difference`, the same of probabilities.
        steps: Nodes of every path, K.
        difference: Step h of finite differences, a share of the way from the untouched to the replaced output.
        pairs: Antithetic pairs of orders per sequence behind Shapley values.
        probes: Draws of random signs behind curvatures by probes, each a double backward; two or more have a standard error.
        budget: Exact effects that Screen-Flag-Fix may compute, a forward pass each: below 1 a share of the components, rounded
            up, else a number.
        gradient_batches: Of the protocol's gradient batches, those whose sequences the Fisher trace visits one by one.
        stages: Parts of `gcgap attribute` that are run beside the methods: accuracy, patching, sets, trust, or `methods` for none
            of them. By default all for a model with up to 40 components, and none for a larger one.
    """

    methods: tuple[str, ...] = ()
    metric: Option[Differentiable] = Metric.LOG_PROB
    steps: int = 4
    difference: float = 0.02
    pairs: int = 2
    probes: int = 4
    budget: int | float = 0.2
    gradient_batches: int = 5
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.stages:
            Stage.of(name, "attribution.stages")
        for name in ("steps", "pairs", "probes", "gradient_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"`attribution.{name}` must be at least 1; got {getattr(self, name)}.")
        if self.budget < 0 or (self.budget >= 1 and self.budget % 1):
            raise ValueError(f"`attribution.budget` must be a share below 1 or a whole number of effects; got {self.budget}.")
        if not 0 < self.difference < 0.5:
            raise ValueError(f"`attribution.difference` must be between 0 and 0.5; got {self.difference}.")
        choices = [metric for metric in Metric if metric.has_gradient]
        if self.metric not in choices:
            raise ValueError(f"`attribution.metric` must be one of {', '.join(choices)}; got {self.metric!r}.")
        object.__setattr__(self, "metric", Metric(self.metric))
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"`attribution.methods` must be different ones; got {', '.join(self.methods)}.")

    def exact_effects(self, components: int) -> int:
        """Exact effects that Screen-Flag-Fix may compute of a model with so many components."""
        return math.ceil(round(self.budget * components, 9)) if self.budget < 1 else int(self.budget)


@dataclass(frozen=True)
class Protocol(Sizes):
    """What is measured, and how.

    Args:
        baselines: What replaces an ablated component's output: any of mean, mean_by_position, zero, resample, optimal, or its
            output on a corrupted input (activation patching): patch_sequence, patch_token, patch_swap, or for prompts
            patch_prompt.
        site: Where a head is replaced: `component`, its output before W_O; `released`, a slice of W_O's output (not a head),
            as the first public pipeline does.
        batch_size: Sequences per gradient batch and per mean batch.
        window: Lowest and highest OOD accuracy (share of sequences) at which effects of components can be distinguished; the
            first OOD length inside is measured.
        normalise_gradient: Divide each gradient norm by sqrt(N_i), as v3 of the paper does and v1 does not.
        paired: Measure base and ablated accuracy on the same sequences; false draws new ones for C of each component, as the
            first public pipeline does. Drops of sets (pruning, joint) are always paired.
        ranks: `average` ranks for ties; `ordinal` breaks ties by position, which makes early layers look like Bloats.
        threshold: Rank difference of a Hero or Bloat as a share of the components; 0.3 of 20 is 6.
        strict: Whether a rank difference equal to the threshold does not count.
        confidence: Coverage of every interval.
        precision: Number format of the measurement, whatever the training used: float32, float64, or bf16 (matrix products inside
            the layers in bfloat16, all else in float32), which pays where the processor has units for it.
        sets: Sets of components, by name, whose joint ablation is measured too, such as [[L0_H1, L1_H2]].
        tracking: When and how large during training.
        attribution: Which attribution methods are run beside G and C, under the first baseline.
    """

    baselines: tuple[Option[Baseline], ...] = (Baseline.MEAN, Baseline.ZERO, Baseline.RESAMPLE)
    site: Option[Site] = Site.COMPONENT
    batch_size: int = 64
    window: tuple[float, float] = (0.20, 0.75)
    normalise_gradient: bool = True
    paired: bool = True
    ranks: Option[Ranks] = Ranks.AVERAGE
    threshold: float = 0.3
    strict: bool = False
    confidence: float = 0.95
    precision: Option[NumberFormat] = NumberFormat.FLOAT32
    sets: tuple[tuple[str, ...], ...] = ()
    tracking: Tracking = field(default_factory=Tracking)
    attribution: Attribution = field(default_factory=Attribution)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = set(self.baselines) & set(Baseline)
        if not known or len(known) < len(self.baselines):
            raise ValueError(f"`protocol.baselines` must be different ones of {', '.join(Baseline)}; got {list(self.baselines)}.")
        if len(self.window) != 2 or not 0 <= self.window[0] <= self.window[1] <= 1:
            raise ValueError(f"`protocol.window` must be [low, high] with 0 <= low <= high <= 1; got {list(self.window)}.")
        for names in (*self.sets, [" ".join(sorted(members)) for members in self.sets]):
            if len(set(names)) < len(names):
                given = [list(members) for members in self.sets]
                raise ValueError(f"`protocol.sets` must be different sets of different components; got {given}.")
        object.__setattr__(self, "baselines", tuple(map(Baseline, self.baselines)))  # plain text serves too
        for name, kind in (("site", Site), ("ranks", Ranks), ("precision", NumberFormat)):
            object.__setattr__(self, name, kind.of(getattr(self, name), f"protocol.{name}"))
        if not 0 < self.threshold <= 1:
            raise ValueError(f"`protocol.threshold` must be a share of the components, in (0, 1]; got {self.threshold}.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"`protocol.confidence` must be between 0 and 1; got {self.confidence}.")
        if self.batch_size < 1:
            raise ValueError(f"`protocol.batch_size` must be at least 1; got {self.batch_size}.")

    def tracked(self) -> Protocol:
        """This protocol at the sizes of tracking."""
        sizes = {size.name: getattr(self.tracking, size.name) for size in fields(Sizes)}
        return replace(self, **sizes)

    def smallest(self) -> Protocol:
        """This protocol with as little data as every stage can run on, for dry runs."""
        tiny = {"gradient_batches": 2, "mean_batches": 1, "sequences": 4, "resamples": 100, "random_pairs": 1}
        return replace(self, **tiny, batch_size=4, tracking=replace(self.tracking, **tiny))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and values: what shaped one measurement, so without `tracking`, and without unused `attribution`."""
        unused = {"tracking"} if self.attribution.methods else {"tracking", "attribution"}
        return {name: _plain(value) for name, value in asdict(self).items() if name not in unused}


PROMPTED = Protocol(
    baselines=(Baseline.MEAN, Baseline.ZERO, Baseline.RESAMPLE, Baseline.PATCH_PROMPT),
    batch_size=16,
    gradient_batches=10,
    mean_batches=10,
    sequences=100,
    random_pairs=5,
    inside=False,  # prompts have no training lengths to tell them from
)
"""What is measured of a model on prompts by default."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Choice) else value


def window_length(accuracy: Iterable[tuple[int, float]], window: tuple[float, float]) -> int | None:
    """The paper's window rule: the first length whose accuracy lies in the window (both ends included), or None."""
    low, high = window
    inside = (
        length for length, value in accuracy if low <= value <= high or math.isclose(value, low) or math.isclose(value, high)
    )
    return next(inside, None)
