"""The LightningModule: loss, metrics and optimiser of a transformer on a task, the early stop, and the logits to train on."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, Literal

import lightning as L  # noqa: N812
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchmetrics.classification import MulticlassExactMatch

from gcgap.data.batches import Batch
from gcgap.data.tasks import VOCABULARY, find_task, module_of
from gcgap.models.checkpoints import MODEL_SETTINGS, new_model
from gcgap.models.number_format import not_finite
from gcgap.models.transformer import Attention, Decoder, Transformer
from gcgap.training.datamodule import SequenceData


class SequenceModel(L.LightningModule):
    """A transformer that learns a task by the mean cross entropy over scored tokens, with Adam.

    Args:
        n_layers: Layers.
        n_heads: Heads per layer.
        d_model: Width of the residual stream; must be divisible by n_heads.
        d_ff: Width of the MLPs.
        positions: `none` (causal attention alone tells positions apart), `learned`, `sinusoidal` or `rotary`.
        n_ctx: Largest number of input tokens; an example of N integers needs 2 N + 2.
        attention: `fused` kernels (but not for gradients in bfloat16 on a CPU, where they are slow), or `math`: plain matrix
            products, which also have second derivatives.
        learning_rate: Adam's step size.
        architecture: `gcgap`, or `gpt2`: Hugging Face's GPT-2, which has learned positions and a tied output.
        vocabulary: Number of token ids, that of the task.
        seed: Seed of the initial weights (linked to `seed_everything`).

    Raises:
        ValueError: Sizes that do not fit together.
    """

    def __init__(
        self,
        n_layers: int = 4,
        n_heads: int = 4,
        d_model: int = 128,
        d_ff: int = 512,
        positions: Literal["none", "learned", "sinusoidal", "rotary"] = "none",
        n_ctx: int = 64,
        attention: Literal["fused", "math"] = "fused",
        learning_rate: float = 1e-3,
        architecture: Literal["gcgap", "gpt2"] = "gcgap",
        vocabulary: int = VOCABULARY,
        seed: int = 42,
    ) -> None:
        super().__init__()
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"`model.learning_rate` must be positive and finite; got {learning_rate}.")
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.model = new_model(**{name: self.hparams[name] for name in (*MODEL_SETTINGS, "seed")})
        self.exact_match = MulticlassExactMatch(vocabulary, multidim_average="global")

    def check(self, data: SequenceData) -> None:
        """Raise a ValueError if the data hold tokens or lengths that the model cannot read."""
        source, needed = data.source, find_task(data.source.task).vocabulary
        if self.hparams["vocabulary"] != needed:
            raise ValueError(f"`model.vocabulary` must be {needed}, that of {source.task}; got {self.hparams['vocabulary']}.")
        longest = data.source.lengths[1]  # the first to be refused: a range of lengths has no limit
        data.source.check_context(chain([longest], data.source.training_lengths), self.model.n_ctx, "data.lengths")
        data.source.check_context(data.source.ood_lengths, self.model.n_ctx, "data.ood_lengths")

    def setup(self, stage: str) -> None:
        """Refuse lengths that the model cannot read."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SequenceData):
            self.check(data)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the module of a task of a user's own, so that who loads the checkpoint knows what to import."""
        data = getattr(self._trainer, "datamodule", None)
        if isinstance(data, SequenceData) and (module := module_of(find_task(data.source.task))):
            checkpoint["task_module"] = module

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the number format of training before the weights are loaded, and keep to the learning rate that is asked for.

        Lightning does the first afterwards, which would round the weights, and would take the checkpoint's learning rate.
        """
        if self._trainer is not None:  # there is none in `load_from_checkpoint`
            self._trainer.precision_plugin.convert_module(self)
        for group in (group for optimizer in checkpoint.get("optimizer_states", ()) for group in optimizer["param_groups"]):
            group["lr"] = self.learning_rate

    def forward(self, tokens: Int[Tensor, "batch pos"], last: int | None = None) -> Float[Tensor, "batch last vocabulary"]:
        """Logits of the next token, at the `last` positions (all by default)."""
        return self.model(tokens, last)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross entropy over the scored tokens of the global batch.

        Each process sums over its own rows and divides by the global count, so that DDP's average over processes is the
        gradient of exactly that mean.
        """
        logits = scored_logits(self.model, batch.inputs, batch.scored)
        total = F.cross_entropy(logits, batch.targets[batch.scored], reduction="sum")
        loss = total * self.trainer.world_size / batch.world_scored
        if not torch.isfinite(loss):
            name = not_finite(self.named_parameters())
            weights = f", and so is the weight `{name}`" if name else ""
            raise FloatingPointError(
                f"The loss is not finite at step {self.global_step}: {loss.item()}{weights}. Lower `model.learning_rate`."
            )
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a gradient that is not finite.

        The scaler of `16-mixed` makes such gradients by too large a scale, and skips the step; a scale of at most 1 makes none.
        """
        gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        if torch.stack(torch._foreach_norm(gradients)).isfinite().all():  # far cheaper than to look at each by itself
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and scaler.get_scale() > 1:
            return
        if name := not_finite((name, weight.grad) for name, weight in self.named_parameters() if weight.grad is not None):
            raise FloatingPointError(
                f"The gradient of `{name}` is not finite at step {self.global_step}; lower `model.learning_rate`."
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Exact match over the fixed validation set."""
        self.exact_match(self._predicted(batch), _scored_targets(batch))
        self.log("accuracy/validation", self.exact_match, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Exact match at each OOD length."""
        right = (self._predicted(batch) == _scored_targets(batch)).all(-1).float().mean()
        data = getattr(self.trainer, "datamodule", None)
        length = data.source.length_of(batch) if isinstance(data, SequenceData) else batch.inputs.shape[1] - batch.last - 1
        self.log(f"accuracy/length_{length}", right, batch_size=len(batch.inputs), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Int[Tensor, "batch scored"]:
        """The tokens that the model puts after SEP, given the true ones before each."""
        return self._predicted(batch)

    def _predicted(self, batch: Batch) -> Int[Tensor, "batch scored"]:
        return self(batch.inputs, _scored_targets(batch).shape[1]).argmax(-1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return adam(self, self.learning_rate)


def adam(module: L.LightningModule, learning_rate: float) -> torch.optim.Adam:
    """Adam, all of it in one kernel unless Lightning clips gradients in mixed precision: it refuses to with such a kernel."""
    trainer = module._trainer
    clipped = trainer is not None and trainer.precision.endswith("-mixed") and bool(trainer.gradient_clip_val)
    return torch.optim.Adam(module.parameters(), lr=learning_rate, fused=not clipped)


def _scored_targets(batch: Batch) -> Int[Tensor, "batch scored"]:
    """Targets of a batch of one length, at its scored positions: the last ones of every row."""
    return batch.targets[:, -int(batch.scored[0].sum()) :]


class AccuracyTarget(L.Callback):
    """Stop training as soon as the exact match on the fixed validation set reaches a target.

    Args:
        accuracy: Share of validation sequences that must be reproduced exactly.
    """

    def __init__(self, accuracy: float = 0.90) -> None:
        if not 0 < accuracy <= 1:
            raise ValueError(f"`target.accuracy` must be in (0, 1]; got {accuracy}.")
        self.accuracy = accuracy
        self.reached_at: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that had reached its target trains no further when it is resumed."""
        trainer.should_stop = trainer.should_stop or self.reached_at is not None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the accuracy just measured with the target."""
        if trainer.state.fn == "fit" and float(trainer.callback_metrics["accuracy/validation"]) >= self.accuracy:
            self.reached_at = trainer.global_step
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"reached_at": self.reached_at, "accuracy": self.accuracy}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Know that the target has been reached, if it was this target on these data."""
        state, data = checkpoint["callbacks"].get(self.state_key, {}), getattr(trainer, "datamodule", None)
        same = data is None or dict(data.hparams) == checkpoint.get("datamodule_hyper_parameters")
        if same and state.get("accuracy") == self.accuracy:
            self.reached_at = state["reached_at"]


def scored_logits(
    model: Decoder, inputs: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocabulary"]:
    """Logits at the scored positions, row by row: `model(inputs)[scored]`."""
    if isinstance(model, Transformer) and inputs.device.type == "cpu":
        return packed_logits(model, inputs, scored)
    return model(inputs)[scored]


def packed_logits(
    model: Transformer, inputs: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocabulary"]:
    """The same on a CPU, without work that is done twice or for nothing.

    The products are the model's own, those of queries, keys and values made as one. Attention alone needs rows of equal length;
    everything else works on a flat row of tokens, from which three kinds are left out: what stands behind the end of an example,
    which no scored token sees; tokens that have stood after the same tokens in a row above (START in every row, and some first
    integers); and, in the last layer, tokens whose next one is not scored. What the first layer's heads read follows from a token
    alone where positions are not added to it; it is computed once for each entry of the vocabulary. A GPU is busier with starting
    kernels than with running them, and takes the plain pass.
    """
    held, first = _tokens(inputs, scored)
    ends = scored.flatten().nonzero().squeeze(1)
    x = model.embed(inputs).flatten(0, 1).index_select(0, first)
    for layer, block in enumerate(model.blocks):
        attention, by_token = block.attention, layer == 0 and not model.adds_positions
        read = block.norm_attention(model.embedding.weight if by_token else x)
        rows = (inputs if by_token else held).flatten()
        q, k, v = _projected(attention, read).index_select(0, rows).unflatten(0, inputs.shape).chunk(3, -1)
        z, kept = attention.attend(q, k, v).flatten(0, 1), first
        if layer == model.n_layers - 1:
            x, kept = x.index_select(0, held[scored]), ends
        x = block.write(x.unsqueeze(0), z.index_select(0, kept).unsqueeze(0))[0]
    return model.unembedding(model.norm(x))


def _projected(attention: Attention, read: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens three_d_model"]:
    """Queries, keys and values side by side: one product instead of three, and one place to take rows from."""
    parts = (attention.W_Q, attention.W_K, attention.W_V)
    return F.linear(read, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))


def _tokens(inputs: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """Which token of the flat row stands at each position, (batch, pos), and for each of them where it stands first, (tokens,).

    At positions behind an example stands any token. Sharing ends after two positions, where prefixes are hardly ever the same.
    """
    place = torch.arange(inputs.numel()).view_as(inputs)
    base = int(inputs.max()) + 1
    prefix = place + base * (base + 1)  # a number for each prefix; it is the place where nothing is shared
    prefix[:, 0] = inputs[:, 0]
    prefix[:, 1] = base * (1 + inputs[:, 0]) + inputs[:, 1]
    needed = scored.flip(1).cumsum(1).flip(1) > 0
    prefix = prefix.where(needed, prefix[0, 0])
    kinds, held = prefix.unique(return_inverse=True)
    first = place.new_full(kinds.shape, inputs.numel()).scatter_reduce(0, held.flatten(), place.flatten(), "amin")
    return held, first
