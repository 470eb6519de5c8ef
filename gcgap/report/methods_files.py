"""The files of one attribution record, or of the known circuits: tables as CSV, figures as PNG and PDF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gcgap.records.atomic import write_whole
from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.manifest import Manifest
from gcgap.records.record_file import with_checksum
from gcgap.report.circuit_tables import auc_figure, auc_table, summary_table
from gcgap.report.methods_figures import FIGURES
from gcgap.report.render import to_csv
from gcgap.report.write import pdf, png

LIST = "files.sha256"


OF_RECORD = ("methods.csv", "components.csv", *(f"{name}.{ending}" for name in FIGURES for ending in ("png", "pdf")))
OF_TRUTH = ("known-summary.csv", "known-auc.csv", "auc.png", "auc.pdf")


def check_files(directory: Path, names: Sequence[str], force: bool = False) -> None:
    """Raise a ValueError if files of these names would replace what is not gcgap's, or was changed since."""
    Manifest(directory / LIST).check(dict.fromkeys(names), force)


def write_files(record: AttributionRecord, directory: Path, force: bool = False) -> None:
    """Write everything that a record shows into a directory, in place of what an earlier record showed there."""
    found = {"methods.csv": record.table(), "components.csv": record.scores()}
    files = {name: table.to_csv(index=False).encode() for name, table in found.items()}
    for name, draw in FIGURES.items():
        files |= _drawn(draw(record), name)
    Manifest(directory / LIST).write(files, force)


def write_truth(truth: dict[str, Any], directory: Path, force: bool = False) -> None:
    """Write known.json, and below known/ what it shows."""
    write_whole(directory / "known.json", (json.dumps(with_checksum(truth), ensure_ascii=False) + "\n").encode())
    files = {f"{table.key}.csv": to_csv(table).encode() for table in (summary_table(truth), auc_table(truth))}
    Manifest(directory / "known" / LIST).write(files | _drawn(auc_figure(truth), "auc"), force)


def _drawn(figure: Figure, name: str) -> dict[str, bytes]:
    return {f"{name}.png": png(figure), f"{name}.pdf": pdf(figure)}
