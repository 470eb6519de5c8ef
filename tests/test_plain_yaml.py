"""YAML as it reads: what a plain word means, what is refused, and that what is written is read again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gcgap.training.parser import dump, load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("0123", 123),
            ("+0123", 123),
            ("-0123", -123),
            ("00", 0),
            ("0x1F", 31),
            ("0o17", 15),
            ("9223372036854775807", 2**63 - 1),
        ],
        *[("0b11", "0b11"), ("1_000", "1_000"), ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("0o18", "0o18"), ("1_0.5", "1_0.5")],
        *[
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            (".5", 0.5),
            ("5.", 5.0),
            ("3.0", 3.0),
            ("-.inf", -math.inf),
            ("e3", "e3"),
            ("1e", "1e"),
        ],
        *[
            ("true", True),
            ("False", False),
            ("yes", "yes"),
            ("No", "No"),
            ("on", "on"),
            ("OFF", "OFF"),
            ("n", "n"),
            ("tRue", "tRue"),
        ],
        *[("null", None), ("~", None), ("", None), ("none", "none"), ("'no'", "no"), ('"0123"', "0123"), ("'~'", "~")],
        *[("2020-01-01", "2020-01-01"), ("12:00:00", "12:00:00"), ("=", "="), ("{a: &x [1], b: *x}", {"a": [1], "b": [1]})],
        *[("{a: &x {b: 1, c: 1}, d: {<<: *x, c: 2}}", {"a": {"b": 1, "c": 1}, "d": {"b": 1, "c": 2}}), ("!!int '7'", 7)],
        ("{a: &x {i: 1}, b: [&y {<<: *x, i: 2}], d: {<<: *y, e: 3}}", {"a": {"i": 1}, "b": [{"i": 2}], "d": {"i": 2, "e": 3}}),
    ],
)
def test_a_plain_word_means_what_it_reads(text: str, value: Any) -> None:
    assert repr(load(text)) == repr(value)  # 1, 1.0 and true are not the same


def test_the_plain_loader_reads_some_of_these_otherwise() -> None:
    read = {text: yaml.safe_load(text) for text in ("0123", "1:30", "1_000", "no", "1e3")}
    assert read == {"0123": 83, "1:30": 90, "1_000": 1000, "no": False, "1e3": "1e3"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        *[("a:\n  - " + "9" * 5000, "line 2 is no integer"), ("a: 1\nb: 2\na: 3", "`a` is there a second time in line 3")],
        *[("{a: 1, a: 2}", "`a` is there a second time"), ("{a: {b: 1, 'b': 2}}", "`b` is there a second time")],
        *[("{a: {b: 1}, a.b: 2}", "`a` and `a.b` are both there"), ("{a.b.c: 1, a.b: {}}", "`a.b` and `a.b.c` are both there")],
        *[("{<<: {a: 1}, <<: {b: 1}}", "`<<` is there a second time"), ("!!python/name:os.system", "could not determine")],
        *[("a: !!timestamp b", "could not determine"), ("a: !!bool b", "`b` in line 1 is no bool"), ("a: !!int b", "is no int")],
        *[("a: 1e999", "1e999 in line 1 is too large"), ("a: 1e-400", "1e-400 in line 1 is too small")],
    ],
    ids=lambda text: text[:20],
)
def test_what_would_be_changed_or_dropped_is_refused(text: str, told: str) -> None:
    with pytest.raises(yaml.YAMLError, match=told):
        load(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63) + 1, 2**63 - 1)
        | st.floats(allow_nan=False)
        | st.text("0123456789.+-_:eExobnyasNYOofFtT~=", max_size=6)
        | st.sampled_from(["1e3", "0o17", "0123", "no", "1:30", "2020-01-01", "null", "0x1F", "1_000", ".inf"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc0123", min_size=1, max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_what_is_written_is_read_again_as_what_it_was_by_both_versions_of_yaml(value: Any) -> None:
    assert repr(load(dump(value))) == repr(value)
    assert repr(yaml.safe_load(dump(value))) == repr(value)
