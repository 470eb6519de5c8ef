"""Components: the heads and MLPs of a model, their names, and where a model keeps them.

What is done at those places belongs to `gcgap.importance`. A new model family is one `Wiring`, declared in
`gcgap.models.families`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcgap.models.transformer import Decoder


@dataclass(frozen=True, order=True)
class Component:
    """Head `head` of a layer, or the layer's MLP where `head` is None."""

    layer: int
    head: int | None

    @property
    def kind(self) -> str:
        """`head` or `mlp`."""
        return "mlp" if self.head is None else "head"

    @property
    def name(self) -> str:
        """`L{l}_H{h}` or `L{l}_MLP`."""
        return f"L{self.layer}_MLP" if self.head is None else f"L{self.layer}_H{self.head}"


@dataclass(frozen=True)
class Slices:
    """Where in a weight the heads have their parts: an axis is cut into equal blocks, and each head has one of them.

    Head h has block `first + h // group * every`.

    Args:
        module: The module that has the weight, such as `blocks.{layer}.attention.W_V`.
        axis: 0 if the weight is (out, in), as in `nn.Linear`, and blocks are outputs; 1 for the other way round.
        blocks: Blocks in all; as many as heads by default.
        first: The block of head 0.
        every: Blocks from one head to the next.
        group: Query heads that share a block.
    """

    module: str
    axis: int = 0
    blocks: int | None = None
    first: int = 0
    every: int = 1
    group: int = 1

    def of(self, weight: Tensor, head: int, n_heads: int) -> Tensor:
        """The part of one head, a view.

        Raises:
            ValueError: The axis cannot be cut into so many equal blocks, or has no block for the head.
        """
        blocks, size = self.blocks or n_heads, weight.shape[self.axis]
        block = self.first + head // self.group * self.every
        if size % blocks or block >= blocks:
            raise ValueError(
                f"`{self.module}` has no part of head {head}: axis {self.axis} has {size} entries for {blocks} parts."
            )
        return weight.narrow(self.axis, block * (size // blocks), size // blocks)


_READERS = tuple(f"blocks.{{layer}}.attention.{name}" for name in ("W_Q", "W_K", "W_V"))
NORMS = (
    ("blocks.{layer}.norm_attention", _READERS),
    ("blocks.{layer}.norm_mlp", ("blocks.{layer}.mlp.W_in",)),
    ("norm", ("unembedding",)),
)
"""Norms of a gcgap transformer, and who reads them."""


@dataclass(frozen=True)
class Wiring:
    """Where a model keeps its components; `{layer}` in a module's name stands for the layer's number.

    Args:
        n_layers: Layers.
        n_heads: Heads per layer.
        out_projection: The module W_O whose *input* is the heads' outputs z side by side.
        mlp: The module whose *output* is what the MLP adds to the residual stream.
        value: The heads' parts of W_V; heads of a group that share their values each have the group's part.
        output: The heads' parts of W_O, which no heads share.
        mlp_down: The MLP's last (down) matrix.
        attention_norm: The module that normalises what all heads write before it is added to the stream, if there is one.
        query: The heads' parts of W_Q; None where heads cannot be permuted, or it is not known how. Only `gcgap check` asks.
        key: The heads' parts of W_K, as `query`.
        permuted: Other weights that have a part of each head, which move with it. Only `gcgap check` asks.
        norms: Norms whose gain can be folded into the modules that read them, with the names of those. Only `gcgap check` asks.
        gain_offset: What these norms add to their weight to have the gain.
        not_linear: What between values and W_O is not linear in the values; empty if nothing. Only `gcgap check` asks.
    """

    n_layers: int
    n_heads: int
    out_projection: str = "blocks.{layer}.attention.W_O"
    mlp: str = "blocks.{layer}.mlp"
    value: Slices = Slices("blocks.{layer}.attention.W_V")
    output: Slices = Slices("blocks.{layer}.attention.W_O", axis=1)
    mlp_down: str = "blocks.{layer}.mlp.W_out"
    attention_norm: str | None = None
    query: Slices | None = None
    key: Slices | None = None
    permuted: tuple[Slices, ...] = ()
    norms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    gain_offset: float = 0.0
    not_linear: str = ""

    @classmethod
    def of(cls, model: Decoder) -> Wiring:
        """The wiring that a model has, or that of a gcgap transformer.

        Raises:
            ValueError: The model was compiled.
        """
        check_not_compiled(model)
        own = getattr(model, "wiring", None)
        if isinstance(own, cls):
            return own
        query, key = (Slices(f"blocks.{{layer}}.attention.{name}") for name in ("W_Q", "W_K"))
        return cls(model.n_layers, model.n_heads, query=query, key=key, norms=NORMS)

    @property
    def components(self) -> list[Component]:
        """All components, layer by layer, heads before the MLP (alphabetical up to ten layers and heads)."""
        heads: list[int | None] = [*range(self.n_heads), None]
        return [Component(layer, head) for layer in range(self.n_layers) for head in heads]

    def columns(self, layer: int) -> tuple[slice, int]:
        """Where in the order of `components` the heads and the MLP of a layer stand."""
        first = layer * (self.n_heads + 1)
        return slice(first, first + self.n_heads), first + self.n_heads

    def weight(self, model: nn.Module, template: str, layer: int) -> Tensor:
        """The weight of a module of one layer.

        Raises:
            ValueError: The model has no such module, or it has no weight.
        """
        weight = getattr(self.module(model, template, layer), "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"the module {template.format(layer=layer)!r} has no weight; mend the name in the `Wiring`.")
        return weight

    def module(self, model: nn.Module, template: str, layer: int) -> nn.Module:
        """The module of one layer.

        Raises:
            ValueError: The model has no such module.
        """
        name = template.format(layer=layer)
        try:
            return model.get_submodule(name)
        except AttributeError as missing:
            raise ValueError(f"`{type(model).__name__}` has no module {name!r}; mend the name in its `Wiring`.") from missing

    def find(self, names: Iterable[str]) -> list[int]:
        """The positions of components given by name.

        Raises:
            ValueError: A name is not one of this model's, or stands there twice.
        """
        names, known = list(names), [component.name for component in self.components]
        if len(set(names)) < len(names):
            raise ValueError(f"`protocol.sets`: a component stands twice in {', '.join(names)}.")
        if unknown := [name for name in names if name not in known]:
            last = f"L{self.n_layers - 1}"
            choice = f"L0_H0 .. {last}_H{self.n_heads - 1} and L0_MLP .. {last}_MLP"
            raise ValueError(f"`protocol.sets`: unknown component {unknown[0]!r}; this model has {choice}.")
        return [known.index(name) for name in names]

    def check_sets(self, sets: Iterable[Iterable[str]]) -> None:
        """Raise a ValueError unless every set of names has members that this model has."""
        for names in sets:
            if not self.find(names):
                raise ValueError("`protocol.sets` must hold sets of at least one component; got an empty one.")


def check_not_compiled(model: nn.Module) -> None:
    """Raise a ValueError if torch compiled the model or a part of it: compiled code does not see hooks that are set later."""
    for name, module in model.named_modules():
        if (way := _compiled_by(module)) is not None:
            part = f"the part `{name}` of this model" if name else "this model"
            raise ValueError(f"the model must not be compiled, because compiled code passes hooks by; {part} was, by {way}.")


def _compiled_by(module: nn.Module) -> str | None:
    """What compiled a module, and how to get the one inside; None if nothing did."""
    if isinstance(module, torch.jit.ScriptModule):
        return "torch.jit. Give the module that was scripted or traced"
    if "_orig_mod" in module._modules:
        return "torch.compile. Give the module inside, `compiled._orig_mod`"
    if module._compiled_call_impl is not None:
        return "its method `compile`. Give a model on which it was not called"
    if hasattr(module.forward, "_torchdynamo_orig_callable"):
        return "torch.compile of its `forward`. Give a model with its own `forward`"
    return None
