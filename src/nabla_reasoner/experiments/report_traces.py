"""Pages of a few problems of Table 1, step by step, beside the report.

The problems are chosen by the records. The shipped models solve them again, which takes seconds; with other models
there are no pages. A page is kept only if its response is the one in the records.
"""

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import build
from ..config.cell import Cell
from ..config.compose import compose_cells
from ..config.overrides import quoted
from ..config.targets import find
from ..decoding import trace
from ..decoding.candidate_scores import with_scores
from ..decoding.nabla_reasoner import NablaReasoner
from ..evaluation.cell_records import check_records, record_file, stored
from ..evaluation.records import read_records
from ..reporting.method_names import BEST_OF_N, NABLA_REASONER, PREFIX, STYLES
from ..reporting.trace_page import trace_page
from ..tasks.written_steps import steps_are_true
from ..types import Problem
from .solve import verdict

FOLDER = "traces"
SHIPPED = "assets"  # first part of the path of the models in the repository
COMPARED = ("greedy", BEST_OF_N)
METHODS = (*COMPARED, NABLA_REASONER, PREFIX)
Records = Mapping[str, Mapping[str, dict[str, Any]]]  # by method and problem


class Case(NamedTuple):
    """A problem, the method that solves it again, and why it was chosen."""

    method: str
    problem: str
    reason: str


def write_pages(results: Path, scale: str, folder: Path) -> list[tuple[str, str]]:
    """Write the pages; returns the address of each from `folder`, and its text. A failure is named on stderr.

    Args:
        results: folder of all results.
        folder: the report's.
    """
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    try:
        return _write(results, scale, folder)
    except Exception as error:  # the report has all else, and must not be lost for these pages
        reason = " ".join(str(error).split())[:200]
        print(f"note: the report has no pages step by step; {type(error).__name__}: {reason}", file=sys.stderr)
        return []


def _write(results: Path, scale: str, folder: Path) -> list[tuple[str, str]]:
    if not (results / find("table1").path(scale) / "records").is_dir():
        return []
    cells = compose_cells(
        [
            "experiment=table1",
            f"scale={scale}",
            f"results_dir={quoted(str(results))}",
            f"method={','.join(METHODS)}",
            "seed=0",
        ]
    )
    if any(Path(path or "").parts[:1] != (SHIPPED,) for path in (cells[0].policy.path, cells[0].reward.path)):
        return []
    for policy, task in dict.fromkeys((cell.policy.name, cell.task.name) for cell in cells):
        group = {cell.method.name: cell for cell in cells if (cell.policy.name, cell.task.name) == (policy, task)}
        problems = {problem.id for problem in build.build_problems(next(iter(group.values())))}
        records = {method: _records(cell, problems) for method, cell in group.items()}
        chosen = cases(records)
        if len(chosen) < 2:
            continue
        links = []
        for number, case in enumerate(chosen, start=1):
            path = folder / FOLDER / f"{number}_{case.method}.html"
            path.parent.mkdir(exist_ok=True)
            path.write_text(_page(group[case.method], records[case.method][case.problem]), encoding="utf-8")
            text = f"{case.problem}, {policy}, {STYLES[case.method].label}: {case.reason}"
            links.append((f"{FOLDER}/{path.name}", text))
        return links
    return []


def _records(cell: Cell, problems: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the records of a cell's first repeat by problem; none if there is no file.

    Args:
        problems: those that the cell has by default; the records may be of more.

    Raises:
        ValueError: records that other settings made.
    """
    path = record_file(cell)
    if not path.exists():
        return {}
    check_records(cell, stored(path).keys)
    records = [record for record in read_records(path) if record["repeat"] == 0]
    return {record["problem_id"]: record for record in records if record["problem_id"] in problems}


def cases(records: Records) -> list[Case]:
    """Choose the first problem that only ∇-Reasoner solves, the first that it does not solve, and this in prefix form.

    The first one has no false step: two errors that cancel each other would be no example of reasoning.
    """
    shared = [problem for problem in records[NABLA_REASONER] if all(problem in records[method] for method in COMPARED)]
    right = {
        method: {key for key, record in by_problem.items() if record["correct"]}
        for method, by_problem in records.items()
    }
    alone = [
        key for key in shared if key in right[NABLA_REASONER] and not any(key in right[method] for method in COMPARED)
    ]
    alone = [key for key in alone if _reasoned(records[NABLA_REASONER][key])]
    wrong = [
        key for key in shared if key not in right[NABLA_REASONER] and records[NABLA_REASONER][key]["status"] == "ok"
    ]
    chosen = [Case(NABLA_REASONER, key, "right, where greedy decoding and Best-of-N are wrong") for key in alone[:1]]
    chosen += [Case(NABLA_REASONER, key, "wrong") for key in wrong[:1]]
    in_prefix = [key for key in wrong[:1] if records[PREFIX].get(key, {}).get("status") == "ok"]
    outcome = {key: "right" if key in right[PREFIX] else "wrong" for key in in_prefix}
    return chosen + [Case(PREFIX, key, f"the same problem, {outcome[key]}") for key in in_prefix]


def _reasoned(record: Mapping[str, Any]) -> bool:
    """Return whether no written step of a record's response is false."""
    return steps_are_true(record["task"], record["response"]) is not False


def _page(cell: Cell, record: Mapping[str, Any]) -> str:
    """Solve the problem of a record again and return its page.

    Raises:
        ValueError: another response than the record's.
    """
    policy, reward = build.load_models(cell)
    method = build.build_method(cell)
    if not isinstance(method, NablaReasoner):
        raise ValueError(f"a page needs a method that is ∇-Reasoner; got {cell.method.name}.")
    problem = _problem(build.build_problems(cell), record["problem_id"])
    (solved,) = trace.record(method.settings, [problem], policy, reward, seed=cell.seed)
    if solved.solution.response != record["response"]:
        raise ValueError(f"{problem.id} solved again must be the record's response; got another one.")
    sentence = verdict(problem, solved.solution)
    scored = with_scores(solved, policy, reward)
    return trace_page(scored, policy, reward, method.settings, seed=cell.seed, verdict=sentence)


def _problem(problems: Sequence[Problem], name: str) -> Problem:
    """Return a problem by its id.

    Raises:
        ValueError: there is none.
    """
    matching = [problem for problem in problems if problem.id == name]
    if not matching:
        raise ValueError(f"the task must have the problem {name} of its records; it has none.")
    return matching[0]
