"""Ways in which a file comes to harm: bits flipped, pieces cut out, doubled, exchanged or overwritten, the end lost."""

from __future__ import annotations

import random

from hypothesis import strategies as st

HARM = ("flip", "flip", "cut", "lose", "double", "exchange", "overwrite", "zero")
Edit = tuple[str, int, int, int]
"""What happens, two places of 2**20 equal parts of the file, and a number."""


def _drawn(seed: int) -> list[Edit]:
    rng = random.Random(seed)
    times = rng.choice((1, 1, 1, 2, 3))
    return [(rng.choice(HARM), rng.randrange(2**20), rng.randrange(2**20), rng.randrange(256)) for _ in range(times)]


EDITS = st.integers(0, 2**48).map(
    _drawn
)  # from seeds: places drawn by Hypothesis itself come twice, and cluster at the beginning


def corrupted(original: bytes, edits: list[Edit]) -> bytes:
    """The file after every edit."""
    data = bytearray(original)
    for harm, at, to, value in edits:
        i, j = sorted((at * len(data) >> 20, to * len(data) >> 20))
        few = data[j : j + 1 + value]
        match harm:
            case "flip" if data:
                data[i] ^= 1 << value % 8
            case "cut":
                del data[j:]
            case "lose":
                del data[i : i + 1 + value]
            case "double":
                data[i:i] = few
            case "exchange":
                data[i : i + len(few)], data[j : j + len(few)] = few, data[i : i + len(few)]
            case "overwrite":
                data[i : i + len(few)] = few
            case "zero":
                data[i : i + 1 + value] = bytes(len(data[i : i + 1 + value]))
    return bytes(data)


def corrupted_lines(original: bytes, edits: list[Edit], pieces: list[str]) -> bytes:
    """A text after edits of whole lines, where a flip puts one of the pieces in the place of a value."""
    lines = original.decode().split("\n")
    for harm, at, to, value in edits:
        i, j = (place * len(lines) >> 20 for place in (at, to))
        if not lines:
            break
        match harm:
            case "flip" | "overwrite":
                key = lines[i].partition(":")[0]
                lines[i] = f"{key}: {pieces[value % len(pieces)]}" if harm == "flip" else pieces[value % len(pieces)]
            case "cut":
                del lines[j:]
            case "lose":
                del lines[i]
            case "double":
                lines.insert(j, lines[i])
            case "exchange":
                lines[i], lines[j] = lines[j], lines[i]
            case "zero":
                lines[i] = "\t " * (value % 3) + " " * (value % 5) + lines[i]
    return "\n".join(lines).encode()
