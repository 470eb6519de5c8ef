"""A module imports only what stands before it in the order in which data flows, and the light ones import no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gcgap

PACKAGE = Path(str(gcgap.__file__)).parent
LINES = (
    "files manifest signals display launchers finite seal form sharing prompts prompts.prompt prompts.sentences prompts.ioi",
    "tasks batches",
    "prompts.tokens prompts.greater_than prompts.random_token prompts.induction prompts.parts prompts.source prompts.find",
    "model components gates",
    "importance importance.scores importance.activity importance.corruption importance.baselines importance.gradient",
    "importance.causal importance.drop importance.first_order importance.second_order importance.paths importance.shapley",
    "importance.sets importance.linearised attribution attribution.settings attribution.record",
    "protocol precision gap records reuse compose subject pruning",
    "attribution.workflow attribution.methods attribution.partial attribution.scoring attribution.agreement",
    "attribution.reliability attribution.trust attribution.advice attribution.setup attribution.defaults attribution.compose",
    "known known.wires known.parts known.models attribution.recovery attribution.verdict attribution.circuits attribution.truth",
    "study study.groups study.arrays study.seeds study.published study.layers study.identity study.emergence study.bloats",
    "study.methods study.same_weights study.selection study.tell study.ranking study.removal study.kinds study.claims",
    "report report.style report.plain report.terminal report.what report.scatter report.emergence report.table report.logs",
    "report.methods report.methods_figures report.parts report.tables report.tables.render report.tables.left_out",
    "report.tables.joint report.tables.layers",
    "report.tables.v3 report.tables.v1 report.tables.pruning report.tables.overview report.tables.protocol report.tables.cells",
    "report.tables.agreement report.tables.emerging report.tables.verdict report.tables.methods report.known",
    "report.tables.tracked",
    "report.figures report.figures.panels report.figures.ranks report.figures.layers report.figures.scatters",
    "report.figures.training report.figures.emerging report.figures.cells report.figures.methods report.figures.tracked",
    "report.contents report.page report.write report.ship report.methods_files",
    "cli imports pretrained pretrained.checks pretrained.families pretrained.memory pretrained.model pretrained.fresh",
    "pretrained.weights pretrained.tokenizer pretrained.load pretrained.options",
    "attribution.track measurement attribution.attribute data packing training checkpoints processes requeue run callbacks",
    "plain_yaml parser config_file differences verify pretrained.revisions remeasure resumable resuming lightning_cli",
    "report.attention report.command attribution.command",
    "sweep sweep.worker sweep.plan sweep.engines sweep.on_ray sweep.live sweep.command __main__",
)
ORDER = [name for line in LINES for name in line.split()]


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, at its top or anywhere in it, without those for type checking."""
    tree = ast.parse(path.read_text())
    guarded = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) for inner in ast.walk(node)}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in guarded]
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in froms} | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    assert not any(node.level for node in froms), "imports are absolute"
    return {name.removeprefix("gcgap.") for name in names if name.startswith("gcgap.")} & set(ORDER)


def test_imports_only_point_left() -> None:
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}
    assert set(modules) == set(ORDER), "every module has its place in the order"
    for name, path in modules.items():
        right = {other for other in imports(path) if ORDER.index(other) >= ORDER.index(name)}
        assert not right, f"{name} imports {sorted(right)}, which stand to its right"


def test_the_package_imports_nothing_of_itself_until_it_is_asked() -> None:
    assert imports(PACKAGE / "__init__.py") == set()


@pytest.mark.parametrize("module", ["protocol", "records", "gap", "report.table", "report.scatter", "report.emergence", "cli"])
def test_the_light_modules_need_no_torch(module: str) -> None:
    code = f"import sys, gcgap.{module}; print(sorted({{'torch', 'lightning', 'jsonargparse', 'pandas'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
