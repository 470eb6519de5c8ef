"""`gcgap match`: match the heads of several runs by what they do, and say what is stable between them.

Imports torch only once options are read.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from gcgap.commands.options import COLUMNS, CompactHelp
from gcgap.importance.protocol import Protocol
from gcgap.records.matching_record import KIND, NAMES, MatchingRecord
from gcgap.records.record import Record
from gcgap.records.record_file import SCHEMA, check_replaceable
from gcgap.training.usage import ArgumentParser, UsageError, add_import_option, import_modules

TEXT = """Heads of a layer have no order, so that L1_H0 of one seed is not that of another. Match the heads of
several runs by what they do on the same sequences (what their removal costs at each position, where
they look), and say what is stable: layers, functions, or nothing. Roles come from each run's
gap/final.json."""
LEAST = 4  # sequences: two in each half
BY = {"drops": (0,), "looks": (1,), "both": (0, 1)}
"""Which parts of a profile heads are matched by."""
NO_ROLES = """Roles are not compared: that needs a gap/final.json of one protocol for every run, not a skipped one
(`gcgap measure RUN/checkpoints/last.ckpt` makes it)."""
DIGITS = 4  # of the means of heads in a record


class MatchParser(CompactHelp, ArgumentParser):
    """The options of `gcgap match`."""


def build_parser() -> MatchParser:
    """The options of `gcgap match`."""
    parser = MatchParser("gcgap match", description=TEXT, allow_abbrev=False)
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="RUN", help="run directories (their last checkpoints), or .ckpt files"
    )
    parser.add_argument("--out", type=Path, help=f"the record's file, named {NAMES} (default runs/matching-TASK.json)")
    parser.add_argument("--length", type=int, help="integers of the sequences (default the first run's shortest OOD length)")
    parser.add_argument("--sequences", type=int, default=Protocol().sequences, help="that all runs share (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the sequences and of permutations (default 0)")
    parser.add_argument("--force", action="store_true", help="replace a record that is there")
    add_import_option(parser)
    return parser


def run(arguments: list[str]) -> int:
    """Match the runs that the arguments name."""
    options = build_parser().parse_args(arguments[1:])
    import_modules(options.imports)
    _check(options)
    from gcgap.commands.targets import run_of
    from gcgap.data.batches import check_seed
    from gcgap.models.checkpoints import last_checkpoint, run_directory
    from gcgap.report.tables_matching import matching_grid, matching_sentence
    from gcgap.training.config_file import load_of_run

    check_seed(options.seed, "--seed")
    files = [(run_of(path), last_checkpoint(path))[1] for path in options.paths]
    models = [load_of_run(file) for file in files]
    length = _common_length(models, files, options.length)
    out = options.out or Path("runs") / f"matching-{models[0].origin.source.task}.json"
    _check_out(out, options.force)
    finals = [_final(run_directory(file), model) for file, model in zip(files, models, strict=True)]
    console = Console()
    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task("Profiles", total=len(models) + len(BY))
        found = match_models(models, finals, length, options.sequences, options.seed, lambda: progress.advance(task))
    record = MatchingRecord(found).write(out, compact=True)
    console.print(matching_grid(record))
    console.print(f"{matching_sentence(record)} {out}", highlight=False, markup=False)
    if record["group"] is None:
        console.print(NO_ROLES, highlight=False, markup=False)
    return 0


def match_models(
    models: list[Any], finals: list[Record | None], length: int, sequences: int, seed: int, advance: Any = lambda: None
) -> dict[str, Any]:
    """The dictionary of a record of matched heads.

    Args:
        models: Trained ones of one task and one size, with their origins.
        finals: The final record of each, which has its roles; None where there is none.
        length: Integers of the sequences.
        sequences: How many there are.
        seed: Of the sequences and of permutations.
        advance: Called after each part of the work.
    """
    from gcgap.data.batches import Purpose, Source
    from gcgap.importance.baselines import mean_activations
    from gcgap.importance.profiles import Look, profiles
    from gcgap.models.wiring import Wiring
    from gcgap.study.groups import gather
    from gcgap.study.matching import match, roles_between

    protocol, source = Protocol(), Source(models[0].origin.source.task, seed=seed)
    batch = source.batch(Purpose.EVALUATION, length, sequences)
    means = source.batches(Purpose.MEAN, length, protocol.mean_batches, protocol.batch_size)
    known = [record for record in finals if record is not None and record["components"]]
    groups = gather([record.path for record in known if record.path]) if len(known) == len(models) else []
    runs, found = [], []
    for model, final in zip(models, finals, strict=True):
        wiring = Wiring.of(model)
        one = profiles(model, wiring, batch, mean_activations(model, wiring, means, by_position=False))
        names = [component.name for component in wiring.components if component.head is not None]
        found.append((one.drops.numpy(), one.looks.numpy()))
        runs.append(_described(model, names, found[-1], final if len(groups) == 1 else None))
        advance()
    layer = np.repeat(np.arange(models[0].n_layers), models[0].n_heads)
    by: dict[str, Any] = {}
    for number, (name, parts) in enumerate(BY.items()):
        rng = np.random.default_rng([seed, number])
        by[name] = match([[one[part] for part in parts] for one in found], layer, rng)
        roles = [one["roles"] for one in runs]
        by[name]["roles"] = roles_between(by[name], roles, layer, rng) if None not in roles else None
        advance()
    libraries = {name: version(name) for name in ("gcgap", "torch", "numpy", "scipy")}
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "task": source.task,
        "seed": seed,
        "step": None,
        "length": length,
        "sequences": sequences,
        "mean_batches": protocol.mean_batches,
        "batch_size": protocol.batch_size,
        "model": models[0].settings,
        "group": groups[0].name if len(groups) == 1 else None,
        "versions": libraries,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "looks": [str(look) for look in Look],
        "layers": layer.tolist(),
        "runs": runs,
        "by": by,
    }


def _described(model: Any, names: list[str], found: tuple[Any, Any], final: Record | None) -> dict[str, Any]:
    """One run: where it comes from, the roles of its heads under the first baseline, and what they do on average."""
    drops, looks = (value.mean((1, 2)) for value in found)
    origin, roles = model.origin, None
    if final is not None:
        by_name = {one["name"]: one["role"][final.baselines[0]]["name"] for one in final["components"]}
        roles = [by_name[name] for name in names]
    heads = [
        {"name": name, "drop": round(float(drop), DIGITS), "looks": np.round(share, DIGITS).tolist()}
        for name, drop, share in zip(names, drops, looks, strict=True)
    ]
    of = {"run": origin.run, "seed": origin.source.seed, "step": origin.step, "checkpoint_sha256": origin.checkpoint_sha256}
    return of | {"roles": roles, "heads": heads}


def _check(options: argparse.Namespace) -> None:
    """Raise a UsageError for options that name no matching."""
    if len(options.paths) < 2:
        raise UsageError(f"heads are matched between two runs or more; got {len(options.paths)}. Give run directories.")
    if options.sequences < LEAST:
        raise UsageError(f"`--sequences` must be at least {LEAST}, two in each half; got {options.sequences}.")
    if options.out is not None and not options.out.match(NAMES):
        raise UsageError(f"`--out` must be named {NAMES}, by which `gcgap report` finds it; got {options.out.name}.")


def _check_out(out: Path, force: bool) -> None:
    """Raise a ValueError if something is in the way."""
    if not out.exists():
        return
    if out.is_dir():
        raise ValueError(f"`{out}` is a folder; give `--out` the name of a file.")
    if not force:
        raise ValueError(f"`{out}` is there already. Replace it with `--force`, or give another `--out`.")
    check_replaceable(out)


def _common_length(models: list[Any], files: list[Path], length: int | None) -> int:
    """The length of the sequences that all models are given.

    Raises:
        ValueError: The models cannot be compared, or not at that length.
    """
    from gcgap.data.tasks import Sentences, find_task

    first, digests = models[0], dict[str, Path]()
    task, size = first.origin.source.task, (first.n_layers, first.n_heads)
    if isinstance(find_task(task), Sentences):
        raise ValueError(f"Heads are matched on tasks on integers; `{files[0]}` was trained on {task}.")
    length = min(first.origin.source.ood_lengths) if length is None else length
    for model, file in zip(models, files, strict=True):
        other, own = model.origin.source.task, (model.n_layers, model.n_heads)
        if other != task or own != size:
            wanted, got = (f"{name}, {one[0]} layers of {one[1]} heads" for name, one in ((task, size), (other, own)))
            raise ValueError(
                f"Runs must be of one task and one size to be matched: `{files[0]}` is of {wanted}; `{file}` of {got}."
            )
        if (digest := model.origin.checkpoint_sha256) in digests:
            raise ValueError(f"`{digests[digest]}` and `{file}` are the same weights; leave one out.")
        digests[digest] = file
        model.origin.source.check_context([length], model.n_ctx, "--length")
    return length


def _final(home: Path, model: Any) -> Record | None:
    """The final record of a run, if it is of these weights."""
    path = home / "gap" / "final.json"
    record = Record.read(path) if path.exists() else None
    return record if record is not None and record["checkpoint_sha256"] == model.origin.checkpoint_sha256 else None
