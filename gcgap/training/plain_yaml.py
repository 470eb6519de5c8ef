"""YAML as it reads: decimal numbers, `true` and `false`, and every other plain word is text.

PyYAML follows YAML 1.1, in which `0123` is 83, `1:30` is 90, `no` is false and `1e3` is text. Here the rules of YAML 1.2 hold
(its core schema), so that a value in a file means what it means as an option. A number that would become infinite or zero is
refused, and so is a key that stands in a mapping twice, of which PyYAML drops the first.
"""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import Any

import yaml

MOST = 20_000  # values of a file, those counted again that an alias repeats; the largest sweep file of this project has 60
DEEPEST = 40  # levels; a config has 4
LARGEST = 2**63  # of integers, which numpy and torch hold in 64 bits
TAG = "tag:yaml.org,2002:"
PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
"""What a plain scalar may be besides text, and its first characters."""
TAGS = {f"{TAG}{kind}" for kind in (*PLAIN, "str", "map", "seq")}


class Loader(yaml.SafeLoader):
    """Reads plain values alone.

    Raises:
        yaml.YAMLError: The text is no YAML.
        ValueError: It holds a key twice, a number that would be changed, another kind of value, or more than any config.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # not those of YAML 1.1

    def get_single_node(self) -> Any:
        """The document, once it is checked."""
        try:
            node = super().get_single_node()
        except RecursionError as error:
            raise ValueError(f"more than {DEEPEST} levels.") from error
        _check(node)
        return node


class Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else."""


def load(text: str) -> Any:
    """The values of a YAML text; see `Loader`."""
    return yaml.load(text, Loader)  # a SafeLoader


def dump(values: Any) -> str:
    """Values as YAML, in their order."""
    return yaml.dump(values, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def check_number(text: str) -> None:
    """Raise a ValueError for the text of a number that is no number of this computer: it would be infinite, or zero."""
    value = abs(float(text))
    if math.isinf(value) and "inf" not in text.lower():
        raise ValueError(f"{text:.20}.. is too large for a number." if len(text) > 20 else f"{text} is too large for a number.")
    if value == 0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise ValueError(f"{text:.20} is too small for a number other than 0.")


def _integer(loader: Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    digits = len(text.lstrip("+-0ox"))
    if digits > 20 or abs(int(text, base)) >= LARGEST:
        raise ValueError(f"{text:.20}{'..' * (digits > 20)} in line {node.start_mark.line + 1} must be an integer of 64 bits.")
    return int(text, base)


def _float(loader: Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
    check_number(text)
    return float(text)


def _check(root: yaml.Node | None) -> None:
    """Raise a ValueError for a key that is there twice, and for more values or levels than a config has."""
    waiting, seen = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        inner = _inside(node)
        if depth > DEEPEST or seen + len(waiting) + len(inner) > MOST:
            raise ValueError(f"more than {MOST} values or {DEEPEST} levels, counting what aliases repeat.")
        waiting += [(one, depth + 1) for one in inner]


def _inside(node: yaml.Node | None) -> list[yaml.Node]:
    if node is not None and node.tag not in TAGS:
        raise ValueError(f"{node.tag.removeprefix(TAG):.60} in line {node.start_mark.line + 1} is no kind of plain value.")
    if not isinstance(node, yaml.CollectionNode):
        if node is not None:
            node.value.encode()  # half a surrogate pair, which other loaders of the file refuse
        return []
    if not isinstance(node, yaml.MappingNode):
        return node.value
    seen = set[str]()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if key.value in seen:
            raise ValueError(f"the key `{key.value:.60}` is there a second time in line {key.start_mark.line + 1}.")
        seen.add(key.value)
    for key in seen:
        for block in accumulate(key.split(".")[:-1], "{}.{}".format):
            if block in seen:
                raise ValueError(f"the keys `{block:.60}` and `{key:.60}` are both there; put all of it under `{block:.60}`.")
    return [one for pair in node.value for one in pair]


for _kind, (_regex, _first) in PLAIN.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"{TAG}{_kind}", re.compile(f"^(?:{_regex})$"), list(_first))
Dumper.add_multi_representer(str, Dumper.represent_str)  # members of a StrEnum
Loader.add_constructor(f"{TAG}int", _integer)
Loader.add_constructor(f"{TAG}float", _float)
