"""The form of both kinds of record: which keys they must have, and of which types. Other keys are kept as they are.

A form is a tuple of types, a set of allowed values, `[form]` (a list of any length), `[form, form]` (a list of that length), a
dictionary of forms, or `Null(form)`. In a dictionary a key that ends in `?` may be missing, and `*` stands for every other key.
Kept by hand, so that a record is checked in about a millisecond: `gcgap.read` takes thousands of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

Form = Any
Check = Callable[[Any], None]
KINDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false", list: "a list", type(None): "null"}


class Null(NamedTuple):
    """Null, or something of a form."""

    form: Form


class MisfitError(Exception):
    """A value is not of its form.

    Args:
        needed: What it must be.
        value: What it is.
    """

    def __init__(self, needed: str, value: Any) -> None:
        super().__init__(needed)
        self.needed, self.value, self.path = needed, value, list[str]()


class MissingError(MisfitError):
    """A key is missing."""


def check_form(value: Any, check: Check, name: str, what: str, instead: str) -> None:
    """Raise a ValueError that names file and key unless a value passes.

    Args:
        value: Of a JSON file.
        check: Made by `compiled`.
        name: Of the file.
        what: Kind of the record.
        instead: What to do with a file that is wrong.
    """
    try:
        check(value)
    except MissingError as error:
        raise ValueError(f"`{name}` is not a whole {what}: `{'.'.join(error.path)}` is missing. {instead}") from None
    except MisfitError as error:
        place = ".".join(error.path)
        raise ValueError(f"`{name}`: `{place}` must be {error.needed}; got {error.value!r:.80}. {instead}") from None


def compiled(form: Form) -> Check:
    """A function that raises a `MisfitError` for a value that is not of a form; far faster than to walk the form each time."""
    if isinstance(form, Null):
        inner = compiled(form.form)
        return lambda value: None if value is None else inner(value)
    if isinstance(form, Mapping):
        return _dictionary(form)
    return _list(form) if isinstance(form, list) else _values(form) if isinstance(form, frozenset) else _leaf(form)


def _leaf(kinds: tuple[type, ...]) -> Check:
    needed = " or ".join(KINDS[kind] for kind in kinds if kind is not int or float not in kinds)
    exact = frozenset(kinds)

    def check(value: Any) -> None:
        if type(value) not in exact and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise MisfitError(needed, value)

    return check


def _values(allowed: frozenset[str | None]) -> Check:
    needed = f"one of {', '.join(sorted('null' if value is None else value for value in allowed))}"

    def check(value: Any) -> None:
        if not isinstance(value, str | None) or value not in allowed:
            raise MisfitError(needed, value)

    return check


def _list(forms: list[Form]) -> Check:
    checks = [compiled(form) for form in forms]
    several = len(checks) > 1
    needed = f"a list of {len(forms)}" if several else "a list"

    def check(value: Any) -> None:
        if not isinstance(value, list) or (several and len(value) != len(checks)):
            raise MisfitError(needed, value)
        number = 0
        try:
            for number in range(len(value)):
                checks[number if several else 0](value[number])
        except MisfitError as error:
            error.path.insert(0, str(number))
            raise

    return check


def _dictionary(forms: Mapping[str, Form]) -> Check:
    other = compiled(forms["*"]) if "*" in forms else None
    named = {key.removesuffix("?"): (compiled(form), key.endswith("?")) for key, form in forms.items() if key != "*"}

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise MisfitError("a dictionary", value)
        key = ""
        try:
            for key, (inner, optional) in named.items():
                if key in value:
                    inner(value[key])
                elif not optional:
                    raise MissingError("", None)
            for key in value if other else ():
                if key not in named:
                    other(value[key])  # pyright: ignore[reportOptionalCall]
        except MisfitError as error:
            error.path.insert(0, str(key))
            raise

    return check


NUMBER, TEXT, WHOLE, NOTHING = (int, float), (str,), (int,), type(None)
MAYBE = (*NUMBER, NOTHING)
SCALAR = (str, bool, *MAYBE)
ENDS = Null([NUMBER, NUMBER])
MEAN = {"value": MAYBE, "ci": ENDS}
KNOWN = {"value": NUMBER, "ci": [NUMBER, NUMBER]}
SCORE = {"value": NUMBER, "ci?": ENDS, "error?": MAYBE}
MEMBERS = [TEXT]
ROLE = {"name": frozenset(["hero", "bloat", "aligned", None]), "probability": MAYBE, "probabilities?": Null({"*": NUMBER})}
COUNTS = Null(
    {**dict.fromkeys(("heroes", "bloats"), NUMBER), **dict.fromkeys(("heroes_by_chance?", "bloats_by_chance?"), NUMBER)}
)
GAP = {name: MAYBE for name in ("rho", "p_value", "ceiling", "corrected")} | {"ci": ENDS, "reason": (str, NOTHING)}
GAPS = GAP | {"heroes": (int, NOTHING), "bloats": (int, NOTHING), "expected_by_chance": COUNTS}
GAPS |= {"by_threshold?": Null({"*": COUNTS}), "missed?": Null({"*": NUMBER})}
PRUNED = {"members": MEMBERS, "reason?": (str, NOTHING), "reading?": (str, NOTHING)}
PRUNED |= {"ood_drop": MEAN, "in_distribution_drop": MEAN}
RATIOS = ("individual_mean", "individual_sum", "joint", "ratio_to_mean", "ratio_to_sum")
JOINT = {"members": MEMBERS, **dict.fromkeys(RATIOS, MAYBE), "ci": Null({"*": ENDS}), "reason?": (str, NOTHING)}
AGREEMENT = {name: MAYBE for name in ("rho", "tau_b", "top_k", "missed", "l1")} | {
    "k?": (int, NOTHING),
    "reason?": (str, NOTHING),
}
OF_ALL = AGREEMENT | {"ci": ENDS, "ceiling": MAYBE, "no_ci?": (str, NOTHING), "no_ceiling?": (str, NOTHING)}
COST = {name: NUMBER for name in ("forward", "backward", "double_backward", "forward_equivalents", "seconds")}
METHOD = {"family": TEXT, "estimates": (str, NOTHING), "text?": TEXT, "cost": COST}
METHOD |= {"agreement": {"*": {"all": OF_ALL, "*": AGREEMENT}}}
ATTRIBUTION_SETTINGS: dict[str, Form] = dict.fromkeys(("budget?", "gradient_batches?", "pairs?", "steps?"), WHOLE)
ATTRIBUTION_SETTINGS |= {"methods?": MEMBERS, "metric?": TEXT, "difference?": NUMBER}
SETTINGS = dict.fromkeys(("gradient_batches", "mean_batches", "sequences", "resamples", "random_pairs", "batch_size"), WHOLE)
SETTINGS |= dict.fromkeys(("inside", "normalise_gradient", "paired", "strict"), (bool,))
SETTINGS |= dict.fromkeys(("site", "ranks", "precision", "layout"), TEXT) | dict.fromkeys(("threshold", "confidence"), NUMBER)
SETTINGS |= {
    "window": [NUMBER, NUMBER],
    "lengths": [WHOLE, WHOLE],
    "ood_lengths": [WHOLE],
    "baselines": MEMBERS,
    "sets": [MEMBERS],
}
FURTHER = {"attribution?": ATTRIBUTION_SETTINGS, "prompts_sha256?": (str, NOTHING)}
HEAD = {"schema": WHOLE, "task": TEXT, "seed": WHOLE, "step": (int, NOTHING), "length": (int, NOTHING)}
HEAD |= {"versions": {"*": TEXT}, "length_given?": (bool,)}
HEAD |= {"model?": {"*": SCALAR}, "training?": Null({"*": SCALAR}), "revision?": (str, NOTHING)}
HEAD |= {"prompts?": {"evaluation?": WHOLE, "again?": WHOLE}}
PLACE = {"name": TEXT, "layer": WHOLE, "kind": TEXT}
MEASURED = {"run": (str, NOTHING), "checkpoint_sha256": (str, NOTHING), "created": TEXT, "seconds": {"*": NUMBER}}
MEASURED |= {"accuracy": {"in_distribution": NUMBER, "by_length": {"*": NUMBER}}}


@cache
def record_check(baselines: tuple[str, ...]) -> Check:
    """Checks a record with these baselines in its `gap`."""
    metrics = {name: KNOWN for name in ("exact_match", "log_prob", "token_accuracy")} | {"logit_difference?": KNOWN}
    of_each = {
        "causal": dict.fromkeys(baselines, metrics),
        "delta": dict.fromkeys(baselines, MEAN | {"by_metric?": {"*": MEAN}}),
        "role": dict.fromkeys(baselines, ROLE | {"by_metric?": {"*": ROLE}}),
    }
    component = PLACE | of_each | {"gradient": KNOWN | {"raw?": NUMBER, "normalised?": NUMBER}}
    component |= {"activation_norm?": NUMBER, "attention_entropy?": MAYBE, "attribution?": {"*": SCORE}}
    component |= {"in_distribution?": Null({"*": MEAN})}
    layer = {"layer": WHOLE, "all": {"gradient?": NUMBER, "*": COUNTS}, "heads?": {"gradient?": NUMBER, "*": COUNTS}}
    form = {
        "protocol": SETTINGS | FURTHER,
        "window": {"length": (int, NOTHING), "accuracy": MAYBE, "in_window": (bool,)},
        "components": [component],
        "layers?": [layer],
        "gap": {"*": GAPS | {"by_metric?": {"*": GAPS}}},
        "pruning": {"*": {"*": {"*": PRUNED}}},
        "sets?": {"*": {"*": {"*": PRUNED}}},
        "random_pairs?": {"*": PRUNED | {"members": [MEMBERS]}},
        "joint": {"*": {"*": JOINT}},
        "attribution?": {"baseline": TEXT, "methods": {"*": METHOD}},
        "final?": (bool,),
        "skipped?": (str, NOTHING),
    }
    return compiled(HEAD | MEASURED | form)


@cache
def attribution_check() -> Check:
    """Checks an attribution record."""
    trust = {"reliability": MAYBE, **dict.fromkeys(("curvature?", "slope?", "slope_at_end?"), MAYBE)}
    trust |= {"bound?": {"*": MAYBE}, "effects?": {"*": MAYBE}}
    component = PLACE | {"exact": {"*": SCORE}, "scores": {"*": SCORE}, "exact_again?": {"*": NUMBER}, "trust": trust}
    of_set = {"members": MEMBERS, **dict.fromkeys(("effect", "effect_again", "error_again"), NUMBER)}
    critical = {"dispensable": MEMBERS, "sets": [of_set], "greedy": Null(of_set), "size": (int, NOTHING)}
    critical |= {name: NUMBER for name in ("tolerance", "critical", "searched", "evaluated")}
    matrices = {"mean": [[MAYBE]], "error": [[MAYBE]], "single": [MAYBE]}
    bins = {"components": WHOLE, "low": NUMBER, "high": MAYBE}
    bins |= dict.fromkeys(("ap_error?", "hvp_error?", "wrong_sign?"), MAYBE)
    together = {"bounds?": {"*": {"*": MAYBE}}, "calibration?": [bins], "completeness?": {"*": MAYBE}, "error?": {"*": MAYBE}}
    form = {
        "kind": TEXT,
        "protocol": {f"{name}?": of for name, of in SETTINGS.items()} | FURTHER,
        "components": [component],
        "methods": {"*": METHOD},
        "advice": TEXT,
        "model": {"*": SCALAR},
        "training": Null({"*": SCALAR}),
        "length_given": (bool,),
        "setup": {"baseline?": TEXT, "direction?": TEXT, "positions?": (str, list)},
        "patching": {"*": {"*": {"rho": MAYBE} | {f"{name}?": of for name, of in GAP.items()}}},
        "sets": {"interactions?": {"*": matrices}, "among?": Null(MEMBERS), "critical?": Null(critical)},
        "trust": together | {"sequences?": WHOLE},
        "workflow": {name: MEMBERS for name in ("fixed?", "unresolved?", "verified?", "above?")}
        | {"tau?": NUMBER, "flags?": {"*": MEMBERS}, "limit?": MAYBE, "rule_of_three?": MAYBE},
    }
    measured = {f"{name}?": of for name, of in MEASURED.items()}
    return compiled({key: of for key, of in HEAD.items() if key.removesuffix("?") not in form} | measured | form)
