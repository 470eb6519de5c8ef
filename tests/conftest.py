"""What several test files share: small models, and the check that observing changes nothing.

The modules that only compute are imported under jaxtyping's hook: every test also checks the shapes in their signatures, in the
first calls of each function.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from ends import ENDS, fit
from hypothesis import settings
from jaxtyping import install_import_hook, jaxtyped
from pictures import draw_quickly
from torch import nn
from torch.nn import functional as F  # noqa: N812
from zygote import Zygote

checked = beartype(conf=BeartypeConf(is_random=False))  # by default it draws from Python's generator, which tests watch
CHECKED = 20  # calls of a function in each test: thousands of later ones have the same shapes, and would take a third of the time
CALLS: Counter[Callable] = Counter()


def at_first(function: Any = None, **options: Any) -> Any:
    """As jaxtyping's decorator; a function's later calls in the same test are not checked."""
    if function is None:
        return partial(at_first, **options)
    always = jaxtyped(function, **options)
    if not isinstance(function, FunctionType):
        return always

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        CALLS[call] += 1
        return (always if CALLS[call] <= CHECKED else function)(*args, **kwargs)

    return call


PURE = [
    "gcgap.data.batches",
    "gcgap.importance.gap",
    "gcgap.importance.gates",
    "gcgap.importance",
    "gcgap.models.transformer",
    "gcgap.data.tasks",
]
with patch("jaxtyping.jaxtyped", at_first), install_import_hook(PURE, "conftest.checked"):
    from gcgap.attribution import (
        drop,  # noqa: F401
        paths,  # noqa: F401
        sets,  # noqa: F401
    )
    from gcgap.data import corruption  # noqa: F401
    from gcgap.data.batches import Source
    from gcgap.importance import ablation as causal  # noqa: F401
    from gcgap.importance import (
        activity,  # noqa: F401
        baselines,  # noqa: F401
        gradient,  # noqa: F401
    )
    from gcgap.models.transformer import Transformer

torch.set_num_threads(1)
settings.register_profile("day", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("long", settings.get_profile("day"), max_examples=500)
settings.load_profile("day")  # --hypothesis-profile=long takes the other one


@pytest.fixture(autouse=True)
def _from_the_first_call() -> None:
    CALLS.clear()


@pytest.fixture(scope="session", autouse=True)
def no_figures() -> None:
    """Runs of models draw quick pictures; those inside `pictures.figures()` draw the real ones."""
    if "lightning" in sys.modules:  # else no test runs a model, or few do
        draw_quickly()


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Runs commands of gcgap in processes that start at once."""
    made = Zygote()
    yield made
    made.close()


@pytest.fixture(scope="session")
def short_runs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run for each way to end, with the names of its events in `seen.txt` beside it; not to be changed."""
    runs = {end: tmp_path_factory.mktemp(end) / "run" for end in ENDS}
    for end, run in runs.items():
        said, seen = run.with_name("said.txt"), str(run.with_name("seen.txt"))
        assert zygote(fit(run, end), said, faults={"below": str(run)}, seen=seen) == 0, said.read_text()
    return runs


@pytest.fixture(scope="session")
def source() -> Source:
    """Sorting of two or three integers; four and five are beyond training."""
    return Source("sort", seed=1, lengths=(2, 3), ood_lengths=(4, 5))


@pytest.fixture(scope="session")
def _trained(source: Source) -> Transformer:
    model = Transformer(n_layers=2, n_heads=2, d_model=32, d_ff=64, n_ctx=16, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(450):
        batch = source.training_batch(step, 64)
        loss = F.cross_entropy(model(batch.inputs)[batch.scored], batch.targets[batch.scored])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    optimiser.zero_grad()
    return model


@pytest.fixture
def trained(_trained: Transformer) -> Transformer:
    """A model that sorts four integers right about every other time; each test has its own copy."""
    model = Transformer(n_layers=2, n_heads=2, d_model=32, d_ff=64, n_ctx=16)
    model.load_state_dict(_trained.state_dict())
    return model


def hooks(model: nn.Module) -> list[dict[str, Any]]:
    """Every hook of every module."""
    return [{key: dict(value) for key, value in vars(module).items() if "hooks" in key} for module in model.modules()]


def drawn_so_far() -> list[Any]:
    """The state of every global generator."""
    state: Any = np.random.get_state(legacy=False)
    keys = state["state"].pop("key").tolist()
    return [torch.get_rng_state().tolist(), random.getstate(), keys, state]


@pytest.fixture
def generators() -> Callable[[], list[Any]]:
    """The state of every global generator, to be compared with itself later."""
    return drawn_so_far


@pytest.fixture
def unchanged() -> Callable[[nn.Module], AbstractContextManager[None]]:
    """A context that brings a model into an unusual state and asserts that its body, raising or not, leaves all of it so."""

    @contextmanager
    def watch(model: nn.Module) -> Iterator[None]:
        modules, parameters = list(model.modules()), list(model.parameters())
        for number, module in enumerate(modules):
            module.training = number % 3 == 0
        for number, parameter in enumerate(parameters):
            parameter.requires_grad_(number % 4 != 1)
            parameter.grad = torch.full_like(parameter, number) if number % 2 else None
        own = modules[-1].register_forward_hook(lambda *_: None)
        torch.manual_seed(5)
        gradients = [parameter.grad for parameter in parameters]
        copies = [None if gradient is None else gradient.clone() for gradient in gradients]
        weights = [parameter.detach().clone() for parameter in parameters]
        before, drawn, enabled = hooks(model), drawn_so_far(), torch.is_grad_enabled()
        try:
            yield
        finally:
            assert [module.training for module in modules] == [number % 3 == 0 for number in range(len(modules))]
            assert [parameter.requires_grad for parameter in parameters] == [i % 4 != 1 for i in range(len(parameters))]
            assert all(p.grad is gradient for p, gradient in zip(parameters, gradients, strict=True))
            assert all(g is None or torch.equal(g, c) for g, c in zip(gradients, copies, strict=True) if c is not None)
            assert all(torch.equal(p, weight) for p, weight in zip(parameters, weights, strict=True))
            assert hooks(model) == before
            assert drawn_so_far() == drawn
            assert torch.is_grad_enabled() == enabled
            own.remove()

    return watch
