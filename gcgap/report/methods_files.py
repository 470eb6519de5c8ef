"""The files of one attribution record: tables as CSV, figures as PNG and PDF."""

from __future__ import annotations

from pathlib import Path

from gcgap.attribution.record import AttributionRecord
from gcgap.report.methods_figures import FIGURES
from gcgap.report.write import pdf, png, save


def write_files(record: AttributionRecord, directory: Path) -> None:
    """Write everything that a record shows into a directory; files there are replaced."""
    save(directory / "methods.csv", record.table().to_csv(index=False).encode())
    save(directory / "components.csv", record.scores().to_csv(index=False).encode())
    for name, draw in FIGURES.items():
        figure = draw(record)
        save(directory / f"{name}.png", png(figure))
        save(directory / f"{name}.pdf", pdf(figure))
