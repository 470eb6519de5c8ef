"""gcgap: the gradient-causal gap of transformers, measured at every checkpoint with intervals.

    import gcgap
    model = gcgap.load("runs/sort-seed42")
    record = gcgap.measure(model, task="sort", length=9)
    record.table()
    gcgap.attribute(model).table()
    gcgap.read("runs")

Names are imported when they are first used, so that reading records needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcgap.attribution.attribute import attribute as attribute
    from gcgap.attribution.setup import Setup as Setup
    from gcgap.importance.protocol import Attribution as Attribution
    from gcgap.importance.protocol import Baseline as Baseline
    from gcgap.importance.protocol import Protocol as Protocol
    from gcgap.importance.protocol import Tracking as Tracking
    from gcgap.measurement.measure import measure as measure
    from gcgap.models.checkpoints import load as load
    from gcgap.models.loading import load_pretrained as load_pretrained
    from gcgap.records.read_records import read as read
    from gcgap.records.record import Record as Record

__version__ = version("gcgap")
_HOMES = {
    "attribute": "attribution.attribute",
    "Attribution": "importance.protocol",
    "Baseline": "importance.protocol",
    "Setup": "attribution.setup",
    "load": "models.checkpoints",
    "load_pretrained": "models.loading",
    "measure": "measurement.measure",
    "Protocol": "importance.protocol",
    "Tracking": "importance.protocol",
    "Record": "records.record",
    "read": "records.read_records",
}
__all__ = [
    "Attribution",
    "Baseline",
    "Protocol",
    "Record",
    "Setup",
    "Tracking",
    "attribute",
    "load",
    "load_pretrained",
    "measure",
    "read",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gcgap' has no attribute {name!r}")
    return getattr(import_module(f"gcgap.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
