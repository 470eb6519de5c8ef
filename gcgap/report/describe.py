"""What a record is of, in a few words: a run on a task, or a pretrained model on prompts."""

from __future__ import annotations

from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.record import Record

Either = Record | AttributionRecord


def what(record: Either, step: bool = True) -> str:
    """`sort, seed 42, step 1,000, length 9`; of a pretrained model `gpt2 on ioi prompts, seed 42`."""
    at = f", step {record['step']:,}" if step and record["step"] is not None else ""
    if (name := _name(record)) is None:
        return f"{record['task']}, seed {record['seed']}{at}, length {record['length']}"
    return f"{name} on {on(record)}, seed {record['seed']}{at}"


def on(record: Either) -> str:
    """`sort at length 9`, `ioi prompts`."""
    if _name(record) is None:
        return f"{record['task']} at length {record['length']}"
    return f"{record['task']} prompts" + (f" at length {record['length']}" if record["length"] else "")


def shared_values(record: Either) -> list[str]:
    """What G cannot tell where query heads share their values; nothing where they do not."""
    group = record.to_dict().get("model", {}).get("heads_per_value", 1)
    if group == 1:
        return []
    return [
        f"Groups of {group} heads share their values: G of each is that of the group's slice of W_V. "
        "The method gradient_output, of each head's own slice of W_O, tells them apart (in `gcgap measure`: "
        "--protocol.attribution.methods '[gradient_output]')."
    ]


def _name(record: Either) -> str | None:
    """Of a pretrained model."""
    return record.to_dict().get("model", {}).get("name")
