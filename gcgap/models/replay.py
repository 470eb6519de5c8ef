"""Replay: a network is entered in its middle, with its own modules, from what a clean run of it left there.

What replaces a component of layer l leaves everything below l as it was. In a causal network it leaves every token before the
first replaced one as it was, too. So one clean run records, for each layer, the residual stream x that enters it, its heads'
outputs z (the input of W_O), and how the network called it; and from there

- layer l is called with x, and its attention gives W_O z without running again;
- the layers above are called as the network called them, with their batch axis repeated, for the tokens from `since` on;
- keys and values of the tokens before come from the clean run.

No family's mathematics is written again. Whether a network can be entered so (its layers are a plain sequence, and read nothing
of each other but the residual stream) is found out by running it both ways: see `Pretrained.not_replayed`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcgap.models.wiring import Wiring

CACHES = ("past_key_values", "past_key_value", "layer_past")  # what layers call the cache of keys and values that they are given
MASK = "attention_mask"


class Past:
    """Keys and values of the tokens before, as layers of transformers ask for them; one without any keeps those of a run."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        self.keys, self.values = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values that the layer's tokens may look at, (row, head, pos, d_head)."""
        if self.keys is None or self.values is None:
            self.keys, self.values = keys, values
            return keys, values
        return _joined(self.keys, keys), _joined(self.values, values)


def _joined(before: Tensor, own: Tensor) -> Tensor:
    """Along the positions; the same few rows stand before each group of so many."""
    return torch.cat([before.repeat(len(own) // len(before), 1, 1, 1), own], 2)


@dataclass
class Call:
    """How a layer was called in the clean run, and what was seen of it there."""

    arguments: dict[str, Any]
    x: Tensor
    z: Tensor = field(init=False)
    past: Past | None = None
    rest: tuple[None, ...] | None = field(init=False)
    """What its attention gives beside W_O z, which no layer needs; None if it gives nothing else."""


@dataclass
class Clean:
    """What a clean run leaves behind, layer by layer."""

    rows: int
    tokens: int
    calls: list[Call] = field(default_factory=list)


class Replay:
    """The layers of a network, and the ways into them.

    Args:
        model: The network, or a module around it.
        wiring: Where it keeps its components. The layers are what the heads' places have in common; the last norm and the matrix
            behind it are the last of `norms`.
        after: What the network does to the output of that matrix.

    Raises:
        ValueError: There is no module of such a name, or the wiring does not name the last norm and who reads it.
    """

    def __init__(self, model: nn.Module, wiring: Wiring, after: Callable[[Tensor], Tensor]) -> None:
        if not wiring.norms or "{layer}" in wiring.norms[-1][0]:
            raise ValueError("the wiring names no norm behind the last layer, as the last one of `norms`")
        numbers, layer = range(wiring.n_layers), wiring.out_projection.partition("{layer}")[0] + "{layer}"
        self.layers = [wiring.module(model, layer, number) for number in numbers]
        self.projections = [wiring.module(model, wiring.out_projection, number) for number in numbers]
        self.attentions = [wiring.module(model, wiring.out_projection.rpartition(".")[0], number) for number in numbers]
        norm, (unembedding, *_) = wiring.norms[-1]
        self.norm, self.unembedding, self.after = wiring.module(model, norm, 0), wiring.module(model, unembedding, 0), after
        parameters = [inspect.signature(type(one).forward).parameters for one in self.layers]
        self.caches = [next((name for name in CACHES if name in known), None) for known in parameters]

    @contextmanager
    def recording(self, since: int) -> Iterator[Clean]:
        """Inside this `with`, one run of the network fills what it yields; `since` is the first token that replays will run.

        They run all of them where some layer has no cache for keys and values of the tokens before.

        Raises:
            ValueError: A layer was run more than once, or not at all, or reads no keys of tokens before.
        """
        clean, since = Clean(0, 0), since if all(self.caches) else 0

        def called(number: int, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, ...]:
            if len(clean.calls) != number:
                raise ValueError("its layers are not run one after the other, each once")
            arguments, (x,) = _by_name(module, args, given)
            clean.rows, clean.tokens = x.shape[:2]
            call = Call(arguments, x[:, since:].contiguous())
            clean.calls.append(call)
            if since:
                call.past = Past()
                arguments = arguments | {str(self.caches[number]): call.past}
            return (x,), arguments

        def projected(number: int, module: nn.Module, args: tuple[Any, ...]) -> None:
            clean.calls[number].z = args[0][:, since:].contiguous()

        def attended(number: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            clean.calls[number].rest = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                hooks = (
                    layer.register_forward_pre_hook(_for(number, called), with_kwargs=True),
                    self.projections[number].register_forward_pre_hook(_for(number, projected)),
                    self.attentions[number].register_forward_hook(_for(number, attended)),
                )
                for hook in hooks:
                    stack.callback(hook.remove)
            yield clean
        for call in clean.calls:
            if call.past is not None:
                if call.past.keys is None or call.past.values is None:
                    raise ValueError("its layers do not use the cache of keys and values that they are given")
                call.past = Past(*(part[:, :, :since].contiguous() for part in (call.past.keys, call.past.values)))
        if len(clean.calls) < len(self.layers):
            raise ValueError("it does not run all of its layers")

    def stream(
        self, clean: Clean, layer: int, x: Float[Tensor, "rows kept d_model"], z: Float[Tensor, "rows kept width"]
    ) -> Float[Tensor, "rows kept d_model"]:
        """The residual stream behind the last layer, from that below `layer` and what the heads of this one put out.

        Rows are those of the clean run, once or several times over; the positions are the last ones.
        """
        done: dict[int, Any] = {}
        with _answering(self.attentions[layer], self.projections[layer], z, clean.calls[layer].rest):
            x = self._run(clean, layer, x, done)
        for above in range(layer + 1, len(self.layers)):
            x = self._run(clean, above, x, done)
        return x

    def logits(self, x: Float[Tensor, "rows kept d_model"]) -> Float[Tensor, "rows kept vocabulary"]:
        """Logits of the next token, from the residual stream behind the last layer."""
        return self.after(self.unembedding(self.norm(x)))

    def _run(self, clean: Clean, number: int, x: Tensor, done: dict[int, Any]) -> Tensor:
        call = clean.calls[number]
        first, times = clean.tokens - x.shape[1], len(x) // clean.rows

        def cut(value: Any) -> Any:
            if id(value) not in done:
                done[id(value)] = _cut(value, clean, first, times)
            return done[id(value)]

        arguments = {name: cut(value) for name, value in call.arguments.items()}
        if call.past is not None:
            arguments[str(self.caches[number])] = call.past
        if first and MASK in arguments and arguments[MASK] is None:
            arguments[MASK] = torch.ones(x.shape[1], clean.tokens, dtype=torch.bool, device=x.device).tril(first)[None, None]
        output = self.layers[number](x, **arguments)
        return output[0] if isinstance(output, tuple) else output


def _for(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(number, *args)


def _by_name(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[dict[str, Any], tuple[Tensor]]:
    """A layer's arguments by their names, and apart from them the residual stream, which is the first one."""
    bound = inspect.signature(type(module).forward).bind(module, *args, **given)
    _, stream, *_ = bound.signature.parameters
    more = next((one.name for one in bound.signature.parameters.values() if one.kind is one.VAR_KEYWORD), "")
    named = {name: value for name, value in bound.arguments.items() if name not in ("self", stream, more)}
    return named | bound.arguments.get(more, {}), (bound.arguments[stream],)


def _cut(value: Any, clean: Clean, first: int, times: int) -> Any:
    """An argument for the tokens from `first` on, and for rows so many times over.

    Positions are the only axis of (pos,), the second of (row, pos, ..), and the third of masks (row, head, query, key).
    """
    if isinstance(value, tuple):
        return tuple(_cut(one, clean, first, times) for one in value)
    if not isinstance(value, Tensor) or not 1 <= value.dim() <= 4:
        return value
    axis = (0, 1, 1, 2)[value.dim() - 1]
    if first and value.shape[axis] == clean.tokens:
        value = value.narrow(axis, first, clean.tokens - first)
    if times > 1 and value.dim() > 1 and len(value) == clean.rows > 1:
        value = value.repeat(times, *[1] * (value.dim() - 1))
    return value


@contextmanager
def _answering(attention: nn.Module, projection: nn.Module, z: Tensor, rest: tuple[None, ...] | None) -> Iterator[None]:
    """Inside this `with`, an attention module gives W_O z, whatever it is called with; hooks at W_O see it."""

    def forward(*_: Any, **__: Any) -> Any:
        output = projection(z)
        return output if rest is None else (output, *rest)

    own = attention.__dict__.get("forward")  # accelerate leaves one there
    attention.forward = forward
    try:
        yield
    finally:
        if own is None:
            del attention.forward
        else:
            attention.forward = own
