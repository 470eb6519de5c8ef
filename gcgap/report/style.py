"""The look that all figures share: colour-blind safe colours and one marker for each role."""

from __future__ import annotations

COLOURS = {"hero": "#2166ac", "bloat": "#b2182b", "aligned": "#7f7f7f"}
MARKERS = {"hero": "^", "bloat": "v", "aligned": "o"}
LABELS = {
    "hero": "Hidden Hero (low gradient, essential)",
    "bloat": "Gradient Bloat (high gradient, dispensable)",
    "aligned": "aligned",
}
DIVERGING = "RdBu_r"  # blue where the rank difference is negative (Heroes), red where it is positive (Bloats)
DPI = 110
