"""The files of one attribution record, or of the known circuits: tables as CSV, figures as PNG and PDF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gcgap.attribution.record import AttributionRecord
from gcgap.report.known import auc_figure, auc_table, summary_table
from gcgap.report.methods_figures import FIGURES
from gcgap.report.tables.render import to_csv
from gcgap.report.write import pdf, png, save
from gcgap.seal import sealed


def write_files(record: AttributionRecord, directory: Path) -> None:
    """Write everything that a record shows into a directory; files there are replaced."""
    save(directory / "methods.csv", record.table().to_csv(index=False).encode())
    save(directory / "components.csv", record.scores().to_csv(index=False).encode())
    for name, draw in FIGURES.items():
        _draw(draw(record), directory / name)


def write_truth(truth: dict[str, Any], directory: Path) -> None:
    """Write known.json, and below known/ what it shows."""
    save(directory / "known.json", (json.dumps(sealed(truth), ensure_ascii=False) + "\n").encode())
    for table in (summary_table(truth), auc_table(truth)):
        save(directory / "known" / f"{table.key}.csv", to_csv(table).encode())
    _draw(auc_figure(truth), directory / "known" / "auc")


def _draw(figure: Figure, path: Path) -> None:
    save(path.with_name(f"{path.name}.png"), png(figure))
    save(path.with_name(f"{path.name}.pdf"), pdf(figure))
