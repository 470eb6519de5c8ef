"""`gcgap report`: tables, figures and one page from records alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from gcgap.records.atomic import check_folder
from gcgap.training.usage import ArgumentParser, UsageError, add_import_option, import_modules

TEXT = """Tables (Markdown, CSV), figures (PNG, PDF) and one self-contained page from the records below PATH.

Runs of one model under one protocol are a group, and nothing is averaged over two groups.
DIR/index.html shows everything."""
TITLE = "The gradient-causal gap: report"
METHODS = (
    "Every attribution method beside the exact effect of every component, on the same sequences: rank correlation ρ, with the "
    "noise ceiling, the largest ρ that independent measurements would reach; what each method misses; and what it costs. Effects "
    "are drops, positive where a component is needed."
)


def build_parser() -> ArgumentParser:
    """The options of `gcgap report`."""
    form = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser("gcgap report", description=TEXT, formatter_class=form, allow_abbrev=False)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="directories with runs, or their record files")
    texts = {
        "out": "where the report goes; it replaces what an earlier report wrote there, and nothing else",
        "records": "also copy the records to DIR, so that `gcgap report DIR --out DIR` makes the report again",
        "attention": "draw the attention patterns of the strongest Heroes and Bloats among the heads of a trained model: a run "
        "directory or .ckpt file with its record gap/final.json (loads torch)",
        "force": "replace also those files of an earlier report that were changed since",
    }
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=texts["out"])
    parser.add_argument("--records", action="store_true", help=texts["records"])
    parser.add_argument("--attention", type=Path, metavar="RUN", help=texts["attention"])
    parser.add_argument("--force", action="store_true", help=texts["force"])
    add_import_option(parser)
    return parser


def run(arguments: list[str]) -> int:
    """Write the report that the arguments ask for."""
    options = build_parser().parse_args(arguments[1:])
    import_modules(options.imports)
    for path in options.paths:
        if not path.exists():
            raise UsageError(f"`{path}` does not exist; give directories with runs, or record files.")
    check_folder(options.out, "--out")
    write_report(options.paths, options.out, options.records, options.attention, options.force)
    return 0


def write_report(paths: list[Path], out: Path, records: bool = False, attention: Path | None = None, force: bool = False) -> None:
    """Write a report of all runs below the paths, with progress in the terminal."""
    from gcgap.records.matching_record import MatchingRecord, matching_files
    from gcgap.report import write
    from gcgap.report.blocks import Drawing
    from gcgap.report.circuit_tables import known_files, known_sections
    from gcgap.report.contents import contents, lead, method_sections
    from gcgap.report.describe import pluralise
    from gcgap.report.tables_matching import matching_sections
    from gcgap.study.groups import doubts, gather, has_runs, with_matchings
    from gcgap.study.methods_over_seeds import gather_methods

    console = Console()
    with Progress(*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("Reading records", total=None)
        methods, extra = gather_methods(paths), known_sections(paths)
        measured = [path for path in paths if has_runs(path)]
        matchings = [MatchingRecord.read(path) for path in matching_files(paths)]
        groups = gather(measured or paths) if measured or not (methods or extra or matchings) else []
        groups = with_matchings(groups, matchings)
        extra += matching_sections(matchings) + method_sections(methods)
        if attention is not None:
            from gcgap.report.attention import attention_section

            extra.append(attention_section(attention))
        progress.update(task, description="Tables")
        sections = contents(groups, extra)
        copies = write.copy_records(groups, methods, [*known_files(paths), *matching_files(paths)]) if records else {}
        figures = sum(isinstance(block, Drawing) for section in sections for block in section.blocks)
        progress.update(task, description="Figures", total=figures)
        text = lead(groups) if groups else METHODS
        write.write_report(out, TITLE, text, sections, copies, lambda: progress.advance(task), force)
    for doubt in (doubt for group in groups for run in group.runs for doubt in doubts(run)):
        print(
            f"gcgap: warning: {doubt}; put the right one there and measure again with `gcgap measure --force`.", file=sys.stderr
        )
    runs = sum(len(group.runs) for group in groups)
    found = [f"{pluralise(runs, 'run')} in {pluralise(len(groups), 'group')}"] * bool(groups)
    attributed = pluralise(sum(len(group.records) for group in methods), "attribution record")
    found += [f"{attributed} in {pluralise(len(methods), 'group')}"] * bool(methods)
    found += [f"{pluralise(len(matchings), 'record')} of matched heads"] * bool(matchings)
    console.print(f"{out / 'index.html'}: {', '.join(found)}.", highlight=False, markup=False, soft_wrap=True)
