"""Loading pretrained models: from a directory, without a network; and what is refused, and how that is said."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from families import CONFIGS, GROUPED, config, network, save
from safetensors.torch import load_file, save_file
from test_pretrained import TOKENS
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gcgap.models import families as checks
from gcgap.models import families as declared
from gcgap.models.families import find_wiring
from gcgap.models.loading import load_pretrained, step_of
from gcgap.models.pretrained import Pretrained
from gcgap.models.weight_files import PREFIXES, weights_sha256


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_directory_is_loaded_with_the_logits_of_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    saved = network(name)
    saved.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    assert not model.training
    assert torch.equal(model(TOKENS), saved(input_ids=TOKENS).logits)
    rounded = load_pretrained(tmp_path, dtype="bfloat16", attention="eager").network
    assert isinstance(rounded, transformers.PreTrainedModel)
    assert (rounded.dtype, rounded.config._attn_implementation) == (torch.bfloat16, "eager")


def test_what_the_weights_are_read_by_reaches_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network("gpt2").save_pretrained(tmp_path)
    asked, real = dict[str, Any](), transformers.AutoModelForCausalLM.from_pretrained

    def noted(where: str, **options: Any) -> Any:
        asked.update(options)
        return real(where, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", noted)
    model = load_pretrained(tmp_path, dtype="float64", device_map="auto", attention="eager", memory=0.5)
    wanted = {"dtype": "float64", "device_map": "auto", "attn_implementation": "eager", "use_safetensors": True}
    wanted |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # both become errors
    assert asked == wanted | {"revision": "main", "trust_remote_code": False}
    assert (model.memory, model.settings["name"], model.settings["dtype"]) == (0.5, str(tmp_path), "float64")
    load_pretrained(tmp_path)
    assert asked["dtype"] == "float32"
    with pytest.raises(ValueError, match="`memory` must be more than 0 GiB; got 0"):
        load_pretrained(tmp_path, memory=0)


def test_a_name_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(ValueError, match=r"`nobody/nothing` cannot be loaded as a model"):
        load_pretrained("nobody/nothing")


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.models.families.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"install `gcgap\[hf\]`"):
        load_pretrained("gpt2")


@pytest.mark.parametrize("kind", ["BertConfig", "T5Config"])
def test_a_model_that_is_no_decoder_of_a_known_family_is_refused(kind: str, tmp_path: Path) -> None:
    getattr(transformers, kind)().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no model family is declared for `model_type`[^\n]*known are [^\n]*llama") as refused:
        load_pretrained(tmp_path)
    assert "Pretrained(network, wiring)" in str(refused.value)


def test_a_family_is_one_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = transformers.AutoModelForCausalLM.from_config(transformers.StableLmConfig(**cast("Any", GROUPED))).eval()
    saved.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no model family is declared for `model_type` 'stablelm'"):
        load_pretrained(tmp_path)
    monkeypatch.setattr(declared, "FAMILIES", dict(declared.FAMILIES))
    declared.family("stablelm")(declared.llama)
    assert torch.equal(load_pretrained(tmp_path)(TOKENS), saved(input_ids=TOKENS).logits)


def test_a_pickle_is_refused_unless_it_is_allowed_and_never_run(tmp_path: Path) -> None:
    saved = network("gpt2")
    config("gpt2").save_pretrained(tmp_path)
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="its weights are a pickle, which `--allow-pickle` reads") as told:
        load_pretrained(tmp_path)
    assert "safetensors" in str(told.value)
    assert torch.equal(load_pretrained(tmp_path, allow_pickle=True)(TOKENS), saved(input_ids=TOKENS).logits)

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    torch.save(saved.state_dict() | {"payload": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded as a model"):
        load_pretrained(tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_file_of_weights_that_is_cut_is_told(tmp_path: Path) -> None:
    network("gpt2").save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"`{tmp_path}` cannot be loaded as a model: a file of weights is corrupted"):
        load_pretrained(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    network("gpt2").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "own" not in sys.modules


@pytest.mark.parametrize("trusted", [False, True])
def test_the_hub_is_asked_for_the_revision_and_its_code_runs_only_on_your_word(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[dict[str, Any]]()

    def away(name: str, **options: Any) -> Any:
        asked.append({"name": name} | options)
        raise OSError("not today")

    wanted = {"trust_remote_code": trusted}
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", away)
    network("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer that can be loaded"):
        load_pretrained(tmp_path, prompts="induction", trust_remote_code=trusted)
    assert asked.pop() == {"name": str(tmp_path), "revision": "main"} | wanted
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", away)
    for revision in ("step1000", None):
        with pytest.raises(
            ValueError,
            match=r"`nobody/nothing` cannot be loaded as a model: there is no such directory, and on the hub: not today",
        ):
            load_pretrained("nobody/nothing", revision, trust_remote_code=trusted)
        assert asked.pop() == {"name": "nobody/nothing", "revision": revision or "main"} | wanted


@pytest.mark.parametrize(
    ("revision", "step"),
    [("step0", 0), ("step1000", 1000), ("step-20", 20), ("step_3", 3), ("step=000400", 400), ("Step_9", 9)]
    + [("checkpoint-500", 500), ("ckpt-1000", 1000), ("ckpt_042", 42), ("iter_0001000", 1000), ("iteration-7", 7)]
    + [("global_step1000", 1000), ("globalstep6", 6), ("training-step-8", 8), ("step=12.ckpt", 12)]
    + [("stage1-step101000-tokens424B", 101_000), ("step1-tokens2", 1), ("step-50K-105b", 50_000), ("step-2m", 2_000_000)]
    + [("epoch3-step500", 500), ("epoch=3-step=500", 500), ("checkpoint-2-step-500", 500), ("step-500-iter-3", 500)]
    + [(one, None) for one in (None, "main", "step", "step1.5", "step1-step2", "substep5", "step12abc", "epoch3", "v2")]
    + [(one, None) for one in ("1000", "tokens424B", "ckpt-12.5", "3f2504e0")],
)
def test_a_revision_that_names_a_step_tells_it(revision: str | None, step: int | None) -> None:
    assert step_of(revision) == step


def test_a_word_that_the_tokenizer_does_not_know_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"clean": f"Then, {one} gave", "answer": " a"}) + "\n" for one in ("Mary", "Zoe")))
    with pytest.raises(ValueError, match=r"line 2: the tokenizer of .* does not know all words of 'Then, Zoe gave'"):
        load_pretrained(save(tmp_path / "tiny"), prompts=str(path))


def test_the_hash_of_weights_is_of_each_of_them_with_name_format_and_size() -> None:
    def hashed(**weights: torch.Tensor) -> str:
        made = torch.nn.Module()
        for name, weight in weights.items():
            made.register_parameter(name, torch.nn.Parameter(weight))
        return weights_sha256(made)

    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    last = a.clone()
    last[1, 2] += 1
    whole = hashed(a=a, b=b)
    assert whole == hashed(b=b.clone(), a=a.T.contiguous().T), "in no matter which order, layout and place"
    others = [hashed(a=last, b=b), hashed(c=a, b=b), hashed(a=a.reshape(3, 2), b=b), hashed(a=a), hashed(a=b, b=a)]
    others += [hashed(a=a.half()), hashed(a=a.half().view(torch.bfloat16))]  # the same bytes
    assert len({whole, *others}) == 8
    tied = network("llama, tied")
    assert weights_sha256(copy.deepcopy(tied)) == weights_sha256(tied)
    assert weights_sha256(network("llama, tied", seed=1)) != weights_sha256(tied)
    with torch.device("meta"), pytest.raises(ValueError, match=r"the weight `a` is not in memory; .*`--device-map`"):
        hashed(a=torch.ones(2))


def test_attention_without_second_derivatives_is_refused() -> None:
    with pytest.raises(ValueError, match="eager or sdpa"):
        load_pretrained("gpt2", attention="flash_attention_2")


Weights = dict[str, Tensor]


def rewritten(directory: Path, name: str, change: Callable[[Weights], Weights], pickled: bool = False) -> Path:
    """A directory of a tiny model whose weights were changed behind transformers' back."""
    network(name).save_pretrained(directory)
    weights = change(load_file(directory / "model.safetensors"))
    if pickled:
        (directory / "model.safetensors").unlink()
        torch.save(weights, directory / "pytorch_model.bin")
    else:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("layers.0.mlp.down_proj"), "weights are missing: `model.layers.0.mlp.down_proj.weight`.\n"),
        (without("lm_head"), "weights are missing: `lm_head.weight`."),
        (without("layers.1"), r"weights are missing: (`model.layers.1.[a-z_.]*.weight`(, )?){3} and 6 more."),
        (lambda weights: weights | {"score.weight": torch.ones(2)}, "weights are not of this model: `score.weight`."),
        (
            lambda weights: weights | {"model.norm.weight": torch.ones(9)},
            r"weights have another size than config.json says: `model.norm.weight` is \[9\] for \[24\].",
        ),
    ],
)
def test_weights_that_are_missing_unexpected_or_of_another_size_are_refused_by_name(
    change: Callable[[Weights], Weights], told: str, pickled: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="cannot be loaded as a model: " + told):
        load_pretrained(rewritten(tmp_path, "llama", change, pickled), allow_pickle=pickled)
    assert "REPORT" not in capfd.readouterr().err, "what is an error now is no warning too"


def test_a_weight_that_is_missing_in_one_of_several_files_is_refused(tmp_path: Path) -> None:
    network("llama").save_pretrained(tmp_path, max_shard_size="10KB")
    shard = next(path for path in tmp_path.glob("model-*.safetensors") if "model.norm.weight" in load_file(path))
    save_file(without("model.norm")(load_file(shard)), shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights are missing: `model.norm.weight`"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(("prefix", "name"), [(one, "gpt_neox") for one in PREFIXES] + [("_orig_mod.", "gemma3")])
def test_a_prefix_that_a_program_put_before_all_names_is_named(prefix: str, name: str, tmp_path: Path) -> None:
    def carry(weights: Weights) -> Weights:
        return {prefix + old: weight for old, weight in weights.items()}

    with pytest.raises(ValueError, match=r"weights are missing: `[^\n]*\n" + f"Their names carry `{prefix}`, which "):
        load_pretrained(rewritten(tmp_path, name, carry))


def test_a_prefix_inside_names_is_named(tmp_path: Path) -> None:
    """As of a model whose layers were compiled one by one."""

    def carry(weights: Weights) -> Weights:
        return {name.replace("layers.0.", "layers.0._orig_mod."): weight for name, weight in weights.items()}

    with pytest.raises(ValueError, match=r"Their names carry `_orig_mod.`, which torch.compile adds. Save the module inside"):
        load_pretrained(rewritten(tmp_path, "llama", carry))


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("gpt2", ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")),
        ("gpt_neo", ("transformer.h.0.attn.attention.bias", "transformer.h.0.attn.attention.masked_bias")),
        ("gpt_neox", ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq")),
        ("llama, tied", ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")),
    ],
)
def test_tied_weights_and_tables_that_models_compute_are_not_asked_for(
    name: str, tables: tuple[str, ...], tmp_path: Path
) -> None:
    more = {table: torch.ones(1, 1, 4, 4, dtype=torch.uint8) for table in tables}
    model = load_pretrained(rewritten(tmp_path, name, lambda weights: weights | more))
    assert torch.equal(model(TOKENS), network(name)(input_ids=TOKENS).logits)


def test_two_embeddings_that_differ_are_refused_where_the_config_says_that_they_are_one(tmp_path: Path) -> None:
    def two(weights: Weights, by: int) -> Weights:
        return weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + by}

    load_pretrained(rewritten(tmp_path, "llama, tied", lambda weights: two(weights, 0)))
    with pytest.raises(ValueError, match=r"`tie_word_embeddings`\), and its weights hold two that differ"):
        load_pretrained(rewritten(tmp_path, "llama, tied", lambda weights: two(weights, 1)))


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(
    dtype: torch.dtype, pickled: bool, tmp_path: Path
) -> None:
    def change(weights: Weights) -> Weights:
        return weights | {"model.norm.weight": weights["model.norm.weight"].to(dtype)}

    with pytest.raises(ValueError, match=r"`model.norm.weight` must be dense and of floating point [^\n]*; got [A-Za-z_0-9]+"):
        load_pretrained(rewritten(tmp_path, "llama", change, pickled), allow_pickle=pickled)


def test_weights_of_several_formats_are_converted_to_the_one_asked_for_and_to_none_of_their_own(tmp_path: Path) -> None:
    directory = rewritten(
        tmp_path, "llama", lambda weights: weights | {"model.norm.weight": weights["model.norm.weight"].double()}
    )
    assert torch.equal(load_pretrained(directory)(TOKENS), network("llama")(input_ids=TOKENS).logits)
    with pytest.raises(ValueError, match=r"one number format, float32; got float64 in `model.norm.weight`"):
        load_pretrained(directory, dtype="auto")


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    network("llama").save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="an adapter lies beside its weights"):
        load_pretrained(tmp_path)


def test_a_model_from_the_hub_is_held_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here from the hub's cache, at a revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--nobody--tiny"
    rewritten(home / "snapshots" / ("0" * 40), "llama", without("model.norm"))
    rewritten(home / "snapshots" / ("1" * 40), "llama", lambda weights: {name: w.to(torch.int8) for name, w in weights.items()})
    (home / "refs").mkdir()
    for number, revision in enumerate(("step1", "step2")):
        (home / "refs" / revision).write_text(str(number) * 40)
    with pytest.raises(ValueError, match=r"`nobody/tiny` cannot be [^\n]*weights are missing: `model.norm.weight`"):
        load_pretrained("nobody/tiny", "step1")
    with pytest.raises(ValueError, match=r"`nobody/tiny` cannot be [^\n]*must be dense and of floating point"):
        load_pretrained("nobody/tiny", "step2")


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("llama", {"is_causal": False}, "`is_causal` in the model's config must be True, because no token may see"),
        ("gemma", {"use_bidirectional_attention": True}, "`use_bidirectional_attention` .* must be False"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "`use_bidirectional_attention` .* must be False"),
        ("gpt2", {"add_cross_attention": True}, "`add_cross_attention` .* must be False"),
        ("llama", {"quantization_config": {"load_in_8bit": True}}, "`quantization_config` .* must be absent"),
        ("olmo3", {"layer_types": ["full_attention", "linear_attention"]}, "`layer_types` .* got 'linear_attention'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "`rope_type` .* 'default' or .* depend on the longest row of a batch; got 'dynamic'",
        ),
    ],
)
def test_a_setting_with_which_numbers_would_be_wrong_is_refused_by_name(name: str, changes: Any, told: str) -> None:
    changed = config(name)
    for key, value in changes.items():
        setattr(changed, key, value)
    with pytest.raises(ValueError, match=told):
        find_wiring(changed)
    own = network(name)
    own.config = changed
    with pytest.raises(ValueError, match=told):
        Pretrained(own, find_wiring(config(name)))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_of_every_family_is_known(name: str) -> None:
    """A version of transformers that brings another one makes this fail: find out what it changes, and list or test it."""
    found = config(name)
    for part in (found, found.get_text_config()):
        assert set(part.to_dict()) - set(transformers.PretrainedConfig().to_dict()) <= checks.KNOWN | set(checks.CHECKED)


def test_a_setting_that_is_not_known_is_refused_unless_it_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "KNOWN", checks.KNOWN - {"clip_qkv"})
    find_wiring(config("olmo", clip_qkv=None))
    with pytest.raises(
        ValueError, match=r"`clip_qkv` .* must be None, since gcgap does not know what it changes in olmo; got 0.5"
    ):
        find_wiring(config("olmo"))


def test_a_model_with_soft_caps_is_loaded_with_eager_attention_and_refused_with_another(tmp_path: Path) -> None:
    own = network("gemma2", attn_logit_softcapping=0.5, query_pre_attn_scalar=1, attn_implementation="eager")
    own.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    assert model.settings["attention"] == "eager"
    assert torch.equal(model(TOKENS), own(input_ids=TOKENS).logits)
    with pytest.raises(ValueError, match="`attention` must be eager, because sdpa leaves out the `attn_logit_softcapping`"):
        load_pretrained(tmp_path, attention="sdpa")
    own.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="`attention` must be eager, because sdpa leaves out the `attn_logit_softcapping`"):
        Pretrained(own, find_wiring(own.config))


@pytest.mark.parametrize(("key", "value"), [("scale_attn_by_inverse_layer_idx", True), ("scale_attn_weights", False)])
def test_scales_that_old_versions_leave_out_are_computed_by_eager_attention(key: str, value: bool, tmp_path: Path) -> None:
    network("gpt2", **{key: value}).save_pretrained(tmp_path)
    assert load_pretrained(tmp_path).settings["attention"] == "eager"
    with pytest.raises(ValueError, match=f"because sdpa leaves out the `{key}`"):
        load_pretrained(tmp_path, attention="sdpa")


def test_attention_that_leaves_something_out_is_found_by_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network("llama").save_pretrained(tmp_path)
    real = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def unscaled(*given: Any, scaling: float, **more: Any) -> Any:
        return real(*given, scaling=1.0, **more)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", unscaled)
    with pytest.raises(
        ValueError, match=r"attention by sdpa leaves out something of this model: its logits differ by [0-9.e-]+ "
    ):
        load_pretrained(tmp_path)
    assert load_pretrained(tmp_path, attention="eager").settings["attention"] == "eager"


def test_a_mask_that_is_not_causal_is_found_by_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network("gemma", use_bidirectional_attention=True).save_pretrained(tmp_path)
    monkeypatch.delitem(checks.CHECKED, "use_bidirectional_attention")
    monkeypatch.setattr(checks, "KNOWN", checks.KNOWN | {"use_bidirectional_attention"})
    with pytest.raises(ValueError, match="cannot be loaded as a model: a token sees what comes after it"):
        load_pretrained(tmp_path)


def test_a_network_that_cannot_run_is_loaded_and_says_so_when_it_runs(tmp_path: Path) -> None:
    network("phi", partial_rotary_factor=0.5).save_pretrained(tmp_path)  # 3 of 6 entries turn, of which pairs are needed
    with pytest.warns(UserWarning, match="is run whole for every intervention, which is slow: The size of tensor"):
        model = load_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size of tensor"):
        model(TOKENS)
