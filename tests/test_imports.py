"""Rooms import only rooms above them in docs/architecture.md, no files import each other in a circle, the light ones no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gcgap

PACKAGE = Path(str(gcgap.__file__)).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"
ROOMS = re.findall(r"^\| `(\w+)/` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, at its top or anywhere in it, without those behind an `if`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) for inner in ast.walk(node)}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in guarded]
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in froms} | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    assert not any(node.level for node in froms), "imports are absolute"
    return {name.removeprefix("gcgap.") for name in names if name.startswith("gcgap.")} & set(FILES)


def test_the_page_lists_the_rooms_that_are_there() -> None:
    assert sorted(ROOMS) == sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def test_rooms_import_only_rooms_above_them() -> None:
    for name, path in FILES.items():
        if "." in name:
            below = {one for one in imports(path) if one.split(".")[0] not in ROOMS[: ROOMS.index(name.split(".")[0]) + 1]}
            assert not below, f"{name} imports {sorted(below)}, of rooms below it or beside the rooms"


def test_files_do_not_import_each_other_in_a_circle() -> None:
    TopologicalSorter({name: imports(path) for name, path in FILES.items()}).prepare()


def test_no_two_files_have_one_name() -> None:
    names = [path.name for path in FILES.values() if path.name != "__init__.py"]
    assert sorted(set(names)) == sorted(names)


def test_the_package_imports_nothing_of_itself_until_it_is_asked() -> None:
    assert imports(PACKAGE / "__init__.py") == set()


LIGHT = ["importance.protocol", "records.record", "importance.gap", "report.terminal", "cli"]


@pytest.mark.parametrize("module", [*LIGHT, "report.figures_run"])
def test_the_light_modules_need_no_torch(module: str) -> None:
    code = f"import sys, gcgap.{module}; print(sorted({{'torch', 'lightning', 'jsonargparse', 'pandas'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
