"""One question, answered by greedy decoding and by the chosen method."""

import sys
from pathlib import Path

from ..config import build, compose
from ..config.build import BuiltCell
from ..config.cell import Cell
from ..engine import scoring
from ..evaluation.rollout_engine import RolloutEngine
from ..models import Policy, RewardModel
from ..tasks.grading import grade
from ..tasks.trained_questions import EXAMPLES, trained_question
from ..types import Method, Problem, Solution
from .command import DONE, FAILED, Command, Refused, refusing

SHIPPED = ("assets", "policies")
ONLY_TRAINED = (
    "note: the shipped models were trained on questions of three kinds, in the words below. Yours is none of them, so\n"
    "their answers to it mean nothing."
)


def run(command: Command, cell: Cell) -> int:
    """Answer the question with both methods and print responses, rewards and costs; return the exit status."""
    try:
        return _run(command, cell)
    except (ValueError, Refused):  # the message says what to change; `__main__` prints it
        raise
    except Exception as error:  # of any library below, such as a chat template that refuses the question
        reason = " ".join(str(error).split())[:300]
        print(f"error: the question could not be answered; {type(error).__name__}: {reason}", file=sys.stderr)
        return FAILED


def _run(command: Command, cell: Cell) -> int:
    shared = [override for override in command.overrides if not override.startswith(("method=", "method."))]
    problem = trained_question(command.argument, "question") or Problem("question", command.argument, None, "free")
    with RolloutEngine(Path(cell.folder)) as engine:
        return _answer(command, cell, problem, shared, engine)


def _answer(command: Command, cell: Cell, problem: Problem, shared: list[str], engine: RolloutEngine) -> int:
    """Load the models, and answer with greedy decoding and with the cell's method."""
    with refusing():
        (baseline,) = compose.compose_cells([f"experiment={command.target.name}", *shared, "method=greedy"])
        methods = {part.method.name: build.build_method(part) for part in (baseline, cell)}
        build.prepare_models(cell)
        policy, reward = engine.models(BuiltCell(cell, methods[cell.method.name], [problem]))
        for model in (policy, reward):
            model.check_length(len(model.prompt_ids(problem.messages)), cell.max_new_tokens)
    print(f"policy {policy.name}, reward {reward.name} ({reward.kind})")
    if problem.answer is None and Path(cell.policy.path).parts[:2] == SHIPPED:
        print("\n".join([ONLY_TRAINED, *(f"  {' '.join(example.split())}" for example in EXAMPLES.values())]))
    for name, method in methods.items():
        _show(name, method, problem, policy, reward, cell.seed)
    return DONE


def _show(name: str, method: Method, problem: Problem, policy: Policy, reward: RewardModel, seed: int) -> None:
    """Solve the problem and print response, verdict, reward and cost."""
    (solution,) = method.solve([problem], policy, reward, seed=seed)
    value = solution.reward
    if value is None:  # the method did not use the reward model; shown for comparison, not part of its cost
        (value,), _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages)], [solution.token_ids])
    cost = solution.cost
    print(f"\n{name}\n  {solution.response}\n  {verdict(problem, solution)}")
    print(
        f"  reward {value:.4g}; {cost.decode_tokens} decoded tokens, {cost.gradient_evaluations} gradient "
        f"evaluations, {cost.model_calls} model calls, {cost.flops:.3g} FLOPs, {cost.seconds:.2f} s"
    )


def verdict(problem: Problem, solution: Solution) -> str:
    """Return whether the answer is right, or that it was not checked: only a task's own wording has a known answer."""
    if problem.answer is None:
        return "not checked: the right answer is not known"
    graded = grade(problem, solution.response, solution.search["finished"])
    if graded.correct:
        return f"right: the answer is {problem.answer}"
    stated = "no answer is stated" if graded.extracted is None else f"{graded.extracted} is stated"
    return f"wrong: {stated}, the answer is {problem.answer}"
