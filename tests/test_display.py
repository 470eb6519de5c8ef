"""Printing never ends a command: not on a terminal of another encoding, a closed or broken pipe, or a full disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import tiny
from rich.console import Console

from gcgap.cli import exit_code, main
from gcgap.report.terminal import table
from gcgap.training.display import Output, encodable, showing, unfailing_output

COMMAND = [sys.executable, "-m", "gcgap"]
PRINTS = "from gcgap.cli import main; import gcgap.cli as c; c.HELP = 'x' * 100_000 + 'ρ'; raise SystemExit(main([]))"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_the_final_table_is_shown_in_every_encoding(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=Output(stream), width=100).print(table(tiny.ten()))  # pyright: ignore[reportArgumentType]
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)  # pyright: ignore[reportAttributeAccessIssue]
    assert ("Δ = rank(G) - rank(C)" if encoding == "utf-8" else "D = rank(G) - rank(C)") in text
    assert "L1_MLP" in text
    assert "?" not in text


def test_a_letter_that_an_encoding_lacks_is_replaced_by_one_letter() -> None:
    assert encodable("ρ = −0.5 – é ± 日 \udce9", "ascii") == "r = -0.5 - ? ? ? ?"
    assert encodable("ρ = é ±", "latin-1") == "r = é ±"
    assert encodable("caf\udce9 Δ", "utf-8") == "caf? Δ"


def test_streams_are_given_back_and_closed_ones_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    plain = SimpleNamespace(write=lambda text: len(text), flush=lambda: None)
    for stream in (None, closed, plain):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["--version"]) == 0
        assert main(["frob"]) == 2
        assert sys.stdout is sys.stderr is stream


def test_a_stream_that_is_closed_meanwhile_takes_no_more() -> None:
    stream = io.StringIO()
    output = Output(stream)
    output.write("one")
    stream.close()
    output.writelines(["two"])
    output.flush()
    assert isinstance(output.error, ValueError)


@pytest.mark.parametrize("target", ["closed pipe", "/dev/full", "closed", "latin-1"])
def test_a_process_ends_with_0_wherever_its_output_goes(target: str) -> None:
    """It leaves nothing for Python to try again at exit, which would end with 120."""
    environment = os.environ | ({"PYTHONIOENCODING": "latin-1"} if target == "latin-1" else {})
    closed: Callable[[], None] | None = (lambda: os.close(1)) if target == "closed" else None
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full" if target == "/dev/full" else os.devnull, "w") as file:
        out = writing if target == "closed pipe" else file
        done = subprocess.run(
            [sys.executable, "-c", PRINTS], stdout=out, stderr=subprocess.PIPE, env=environment, text=True, preexec_fn=closed
        )
    os.close(writing)
    full = "gcgap: warning: standard output is incomplete: No space left on device.\n"
    assert (done.returncode, done.stderr) == (0, full if target == "/dev/full" else "")


def test_an_error_ends_with_its_code_where_stderr_is_full() -> None:
    with open("/dev/full", "w") as full:
        assert subprocess.run([*COMMAND, "frob"], stderr=full, check=False).returncode == 2


def test_what_waits_for_a_full_disk_is_dropped_and_the_descriptor_kept() -> None:
    with open("/dev/full", "w") as full:
        output = Output(full)
        output.write("lost")
        assert output.finish() is not None
        assert os.readlink(f"/proc/self/fd/{full.fileno()}") == "/dev/full"
        full.flush()  # nothing is left


def test_what_cannot_be_shown_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with showing("the table"):
        raise IndexError("no column")
    assert capsys.readouterr().err == "gcgap: warning: the table cannot be shown (IndexError: no column).\n"


def raised(code: str, module: str) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        exec(code, {"__name__": module})
    return caught.value


@pytest.mark.parametrize(
    ("code", "module", "expected"),
    [
        ("raise ValueError('typed')", "gcgap.importance.protocol", 2),
        ("raise ValueError('of a library')", "numpy", 1),
        ("'ρ'.encode('ascii')", "gcgap.importance.protocol", 1),
        ("import json; json.loads('{')", "gcgap.importance.protocol", 1),
        ("raise KeyError('x')", "gcgap.importance.protocol", 1),
    ],
)
def test_only_what_gcgap_itself_refuses_was_typed(code: str, module: str, expected: int) -> None:
    assert exit_code(raised(code, module)) == expected


def test_a_program_gets_its_streams_back() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyboardInterrupt), unfailing_output():
        raise KeyboardInterrupt(isinstance(sys.stdout, Output))
    assert (sys.stdout, sys.stderr) == before
