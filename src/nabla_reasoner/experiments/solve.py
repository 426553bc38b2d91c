"""One question, answered by greedy decoding and by the chosen method."""

import sys
from pathlib import Path

from ..config import build, compose
from ..config.build import BuiltCell
from ..config.data_folder import data_folder, locate
from ..config.target_cells import SolveCell
from ..decoding.candidate_scores import with_scores
from ..decoding.nabla_reasoner import NablaReasoner
from ..decoding.observer import DecodingObserver, ObserverGroup
from ..decoding.settings import NablaSettings
from ..decoding.state import DecodingState
from ..decoding.trace import Trace, TraceRecorder
from ..engine import scoring
from ..evaluation.results_folder import reason
from ..evaluation.rollout_engine import RolloutEngine
from ..models import Policy, RewardModel
from ..reporting.trace_page import number, token_text, trace_page
from ..tasks.grading import grade
from ..tasks.trained_questions import EXAMPLES, trained_question
from ..types import ChecksPrompts, Method, Problem, Solution, check_unicode
from .command import DONE, FAILED, Command, Refused, refusing

TITLE, PAGE_BYTES = "<title>∇-Reasoner", 2000  # of a page step by step, and where its title stands
ONLY_TRAINED = (
    "note: the shipped models were trained on questions of three kinds, in the words below. Yours is none of them, so\n"
    "their answers to it mean nothing."
)
WHOLE_ROLLOUTS = "note: for the trace every rollout goes on to its end: the same response at a higher cost"


def run(command: Command, cell: SolveCell) -> int:
    """Answer the question with both methods and print responses, rewards and costs; return the exit status."""
    try:
        return _run(command, cell)
    except (ValueError, Refused):  # the message says what to change; `__main__` prints it
        raise
    except Exception as error:  # of any library below, such as a chat template that refuses the question
        reason = " ".join(str(error).split())[:300]
        print(f"error: the question could not be answered; {type(error).__name__}: {reason}", file=sys.stderr)
        return FAILED


def _run(command: Command, cell: SolveCell) -> int:
    check_unicode("the question", command.argument)
    shared = [override for override in command.overrides if not override.startswith(("method=", "method."))]
    problem = trained_question(command.argument, "question") or Problem("question", command.argument, None, "free")
    with RolloutEngine(Path(cell.folder)) as engine:
        return _answer(command, cell, problem, shared, engine)


def _answer(command: Command, cell: SolveCell, problem: Problem, shared: list[str], engine: RolloutEngine) -> int:
    """Load the models, and answer with greedy decoding and with the cell's method."""
    with refusing():
        (baseline,) = compose.compose_cells([f"experiment={command.target.name}", *shared, "method=greedy"])
        methods = {part.method.name: build.build_method(part) for part in (baseline, cell)}
        _check_trace(cell, methods[cell.method.name])
        build.prepare_models(cell)
        policy, reward = engine.models(BuiltCell(cell, methods[cell.method.name], [problem]))
        longest = max(cell.max_new_tokens, cell.response_limit)  # greedy decoding's, the method's
        for model in (policy, reward):
            model.check_length(len(model.prompt_ids(problem.messages)), longest)
        if isinstance(method := methods[cell.method.name], ChecksPrompts):
            method.check_prompts([problem], policy)
    print(f"policy {policy.name}, reward {reward.name} ({reward.kind})")
    if problem.answer is None and _is_shipped(cell.policy.path):
        print("\n".join([ONLY_TRAINED, *(f"  {' '.join(example.split())}" for example in EXAMPLES.values())]))
    for name, method in methods.items():
        watches = name == cell.method.name and isinstance(method, NablaReasoner) and method.settings.engine == "fast"
        if not watches:
            _show(name, problem, policy, reward, method.solve([problem], policy, reward, seed=cell.seed)[0])
            continue
        listeners: list[DecodingObserver] = [] if cell.quiet else [RevisionPrinter(name, policy)]
        if cell.trace:
            if method.settings.pauses:
                print(WHOLE_ROLLOUTS)
                method.settings = method.settings.with_whole_rollouts()
            recorder = TraceRecorder(method.settings, policy, 1)
            listeners.append(recorder)
        (solution,) = method.solve([problem], policy, reward, seed=cell.seed, observer=ObserverGroup(listeners))
        _show(name, problem, policy, reward, solution)
        if cell.trace:
            (trace,) = recorder.traces([problem], [solution])
            page = with_scores(trace, policy, reward)
            try:
                _write(Path(cell.trace), page, policy, reward, method.settings, cell.seed)
            except OSError as error:
                print(
                    f"error: the answers stand above; {cell.trace} cannot be written: {reason(error)}. Free space, or "
                    "choose another trace=FILE.",
                    file=sys.stderr,
                )
                return FAILED
    return DONE


class RevisionPrinter(DecodingObserver):
    """Observer that prints a line for each proposal, as soon as it is decided."""

    def __init__(self, name: str, policy: Policy):
        self.name = name
        self.policy = policy
        self.count = 0

    def on_decision(self, state: DecodingState) -> None:
        if not self.count:
            print(f"\n{self.name}, revisions")
        self.count += 1
        decision = state.proposals[-1]
        old, new = (repr(token_text(self.policy, decision[key])) for key in ("old", "new"))
        rewards = "not compared"
        if decision["reward"] is not None:
            rewards = f"reward {number(decision['incumbent'])} → {number(decision['reward'])}"
        outcome = "kept" if decision["accepted"] else "rejected"
        print(f"  {self.count}. position {decision['position']}: {old} → {new}, {rewards}, {outcome}", flush=True)


def _check_trace(cell: SolveCell, method: Method) -> None:
    """Raise ValueError if a trace is asked for and cannot be had, before anything is computed."""
    if cell.trace is None:
        return
    if not isinstance(method, NablaReasoner) or method.settings.engine != "fast":
        raise ValueError(
            f"trace needs a method that is ∇-Reasoner on its fast engine; got method={cell.method.name}. "
            "Use method=nabla_reasoner, or leave trace out."
        )
    folder = Path(cell.trace).absolute().parent
    if not folder.is_dir() or Path(cell.trace).is_dir():
        raise ValueError(f"trace must be a file in a folder that exists; got {cell.trace}. Make the folder first.")
    is_new = not Path(cell.trace).exists()
    if Path(cell.trace).is_file() and not cell.overwrite and not _is_page(Path(cell.trace)):
        raise ValueError(
            f"trace must be a new file or an earlier trace; {cell.trace} holds something else. Choose another "
            "trace=FILE, or pass overwrite=true."
        )
    try:
        with Path(cell.trace).open("a"):
            pass
    except OSError as error:
        raise ValueError(f"trace must be a file that can be written; got {cell.trace} ({reason(error)}).") from error
    if is_new:
        Path(cell.trace).unlink()


def _is_page(path: Path) -> bool:
    """Return whether a file is empty or a page that an earlier command wrote."""
    start = path.read_bytes()[:PAGE_BYTES].decode("utf-8", "replace")
    return not start or TITLE in start


def _write(path: Path, trace: Trace, policy: Policy, reward: RewardModel, settings: NablaSettings, seed: int) -> None:
    """Write the page of a solved problem, and say where."""
    page = trace_page(trace, policy, reward, settings, seed=seed, verdict=verdict(trace.problem, trace.solution))
    path.write_text(page, encoding="utf-8")
    print(f"\nstep by step: {path.absolute()}")


def _is_shipped(path: str) -> bool:
    """Return whether a policy lies in the shipped folder, however its path is written."""
    return Path(locate(path)).resolve().is_relative_to((data_folder() / "assets" / "policies").resolve())


def _show(name: str, problem: Problem, policy: Policy, reward: RewardModel, solution: Solution) -> None:
    """Print response, verdict, reward and cost of a solution."""
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
