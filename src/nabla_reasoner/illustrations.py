"""`./reproduce.sh figure1|figure2 [settings]`: the landscape of two tokens, and one problem's decoding, as they are.

Runs the shipped models for seconds. Settings are those of a cell (policy, task, seed, num_problems, method.NAME, …);
the results lie in `results/<scale>/TARGET/`: TARGET.png, .pdf, .md and its rows, TARGET_NAME.csv. With no settings they
are copied to figures/ (rows to figures/data/). Exit status: 0 done; 2 a wrong setting or no case found.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import figures, grading, grid, pairs, rollouts, sketches, tables, trace
from .models import Policy, RewardModel
from .pairs import Pair

WRONG = 2
DEFAULTS = {
    "figure1": ["policy=tiny-base", "task=products", "split=validation", "num_problems=60", "threads=1"],
    "figure2": ["policy=tiny-base", "task=products", "num_problems=150", "threads=1"],
}
DARTS = 32  # Figure 4's largest N
SHARES = np.linspace(0, 1, 31)
BUDGETS = (1, 2, 8, 32)  # numbers of draws that DTO is compared with

Rows = dict[str, list[dict[str, Any]]]


def best_of(losses: np.ndarray, chances: np.ndarray, count: int) -> float:
    """Expected lowest L of `count` independent draws, exactly; what lies outside the alphabet is left out."""
    order = np.argsort(losses, axis=None)
    above = 1 - np.cumsum(chances.ravel()[order] / chances.sum()).clip(max=1)
    tail = np.concatenate([[1.0], above]) ** count
    return float((losses.ravel()[order] * (tail[:-1] - tail[1:])).sum())


def search(cell: grid.Cell) -> tuple[list[dict[str, Any]], list[tuple[Pair, np.ndarray, np.ndarray]], list[int]]:
    """Rows of figure1_search.csv, what each is about, and the alphabet."""
    policy, reward = grid.load_models(cell)
    method, rows, about = grid.build_method(cell), [], []
    found, alphabet = pairs.find(grid.build_problems(cell), policy, reward, method, cell["seed"])
    for pair in found:
        losses = pairs.losses(pair, policy, reward, alphabet, **method.weights)
        chances = pairs.chances(pair, policy, alphabet, method.rollout_sampling)
        first, second = np.unravel_index(losses.argmin(), losses.shape)
        best = alphabet[first], alphabet[second]
        path = pairs.descend(pair, policy, reward, method.descent, (0, 1), **method.weights)
        alone = pairs.one_by_one(pair, policy, reward, method.descent, **method.weights)
        rows.append({
            "problem_id": pair.problem.id, "response": policy.decode(pair.sequence.rollout),
            "first": pair.positions[0], "second": pair.positions[1],
            **{name: policy.decode(list(tokens)) for name, tokens in
               (("own", pair.tokens), ("best", best), ("dto", path[-1].tokens), ("one_by_one", alone.tokens))},
            "own_loss": path[0].loss, "best_loss": losses.min(), "dto_loss": path[-1].loss,
            "one_by_one_loss": alone.loss, "evaluations": len({step.tokens for step in path}),
            "chance": chances[first, second],
            **{f"best_of_{count}_loss": best_of(losses, chances, count) for count in BUDGETS}, "drawn": False,
        })  # fmt: skip
        about.append((pair, losses, chances))
    return rows, about, alphabet


def chosen_case(rows: Sequence[Mapping[str, Any]]) -> int:
    """The first row whose best pair differs from the response's own in both tokens and is where DTO ends.

    Raises:
        ValueError: there is none.
    """
    for number, row in enumerate(rows):
        if row["best"] == row["dto"] and all(a != b for a, b in zip(row["own"], row["best"], strict=True)):
            return number
    raise ValueError("no searched response lets DTO mend both tokens; search more with num_problems=NUMBER.")


def landscape_rows(cell: grid.Cell) -> Rows:
    """Rows of Figure 1 by file: the search, every pair of tokens, the relaxed square, DTO's steps."""
    rows, about, alphabet = search(cell)
    number = chosen_case(rows)
    rows[number]["drawn"] = True
    pair, losses, chances = about[number]
    policy, reward = grid.load_models(cell)
    method = grid.build_method(cell)
    path = pairs.descend(pair, policy, reward, method.descent, (0, 1), **method.weights)
    others = path[-1].tokens
    darts = _darts(pair, chances, cell["seed"])
    words = [policy.decode([token]) for token in alphabet]
    square = pairs.relaxed(pair, policy, reward, others, SHARES.tolist(), **method.weights)
    steps = []
    for step, (logits, tokens, loss) in enumerate(path):
        mass = logits.softmax(-1)
        row: dict[str, Any] = {"step": step, "tokens": policy.decode(list(tokens)), "loss": loss}
        for name, own, other, part in zip(("first", "second"), pair.tokens, others, mass, strict=True):
            inside = (part[own] + part[other]).item()
            row |= {f"u_{name}": part[other].item() / inside, f"inside_{name}": inside}
        steps.append(row)
    return {
        "search": rows,
        "pairs": [{"first": words[i], "second": words[j], "loss": losses[i, j], "chance": chances[i, j],
                   "darts": darts.count((i, j))} for i in range(len(words)) for j in range(len(words))],
        "square": [{"u_first": u, "u_second": v, "loss": square[i, j]}
                   for i, u in enumerate(SHARES) for j, v in enumerate(SHARES)],
        "path": steps,
    }  # fmt: skip


def _darts(pair: Pair, chances: np.ndarray, seed: int) -> list[tuple[int, int]]:
    """Draws of the policy at the two positions, as places in the alphabet; those outside it are left out."""
    at = np.searchsorted(chances.cumsum(), rollouts.uniforms(seed, pair.problem.id, 0, "darts", DARTS))
    width = chances.shape[1]
    return [(int(place) // width, int(place) % width) for place in at if place < chances.size]


def landscape_caption(rows: Rows, command: str, cell: grid.Cell) -> str:
    """figure1.md."""
    table = pd.DataFrame(rows["search"])
    case, wrong = table[table.drawn].iloc[0], table[table.best != table.own]
    ends = pd.DataFrame(rows["path"]).iloc[[0, -1]]
    hit, rowwise = ((wrong[name] == wrong.best).mean() for name in ("dto", "one_by_one"))

    def above(column: str) -> str:
        return f"{(wrong[f'{column}_loss'] - wrong.best_loss).mean():.1f}"

    chance = {count: (1 - (1 - wrong.chance) ** count).mean() for count in BUDGETS}
    return f"""# figure1.png

Made by `{command}`; rows in `figures/data/figure1_*.csv`.

Zeroth-order search beside first-order descent on the landscape of two tokens. The response `{case.response}` \
({cell["policy"]["name"]}, {case.problem_id}) is kept but for the tokens at positions {case["first"]} and \
{case.second}, `{case.own[0]}` and `{case.own[1]}`. L = −λ r − ν log π in nats, λ = {cell["method"]["reward_weight"]}, \
ν = {cell["method"]["nll_weight"]}, as {cell["reward"]["name"]} and the policy compute it. Left: L of every pair of \
tokens, with {DARTS} draws of the policy (temperature {cell["method"]["rollout_temperature"]}; the second token drawn \
behind the first): what sampling sees. Right: the same L where the two tokens are mixtures of embeddings between the \
response's own (u = 0) and the best pair (u = 1), with DTO's T = {cell["method"]["num_iterations"]} steps on both rows \
of logits, from the policy's own; u is the share of the new token in the two tokens' probability, which holds \
{100 * ends.inside_first.iloc[0]:.0f} and {100 * ends.inside_second.iloc[0]:.0f} % of the rows' mass at the start and \
{100 * ends.inside_first.iloc[1]:.0f} and {100 * ends.inside_second.iloc[1]:.0f} % at the end. DTO takes its gradient \
at the hard tokens, that is at a corner, and not where the marker stands.

The case: the first of {len(table)} responses ({cell["task"]["name"]}, {cell["split"]} problems; those among the first \
{cell["num_problems"]} whose first rollout has two tokens below the confidence gate; the two least confident) in which \
the best pair differs in both tokens and DTO ends there. It is not typical. In the {len(wrong)} responses whose own \
pair is not the best one:

| from the response's own tokens | ends at the best pair | mean L above the best pair, nats |
|---|---|---|
| as sampled | 0 % | {above("own")} |
| DTO, both rows at once, {wrong.evaluations.mean():.1f} gradient evaluations on average | {100 * hit:.0f} % | \
{above("dto")} |
| DTO, one row after the other, each change kept only where L falls | {100 * rowwise:.0f} % | {above("one_by_one")} |
""" + "".join(
        f"| best of {count} draw{'s' * (count > 1)} (exact expectation) | {100 * chance[count]:.0f} % | "
        f"{above(f'best_of_{count}')} |\n"
        for count in BUDGETS
    )  # fmt: skip


def trace_rows(cell: grid.Cell) -> Rows:
    """Rows of Figure 2 by file: the rollouts, their tokens, and every visited position.

    Raises:
        ValueError: no problem shows everything that can happen.
    """
    policy, reward = grid.load_models(cell)
    traces = trace.record(grid.build_method(cell), grid.build_problems(cell), policy, reward, seed=cell["seed"])
    for number, each in enumerate(traces):
        accepted = sum(response.accepted for response in each.responses[1:])
        kinds = {"rejected": accepted < len(each.responses) - 1, "kept": any(v.proposal is None for v in each.visits),
                 "reused": any(v.reused and not v.evaluations for v in each.visits)}  # fmt: skip
        texts = [policy.decode(tokens) for tokens in (each.responses[0].tokens, each.solution.token_ids)]
        right = [grading.grade(each.problem, text, True).correct for text in texts]
        if accepted >= 2 and all(kinds.values()) and right == [False, True]:
            return _traced(each, number, policy, reward)
    raise ValueError("no problem among these shows every step of the loop; look at more with num_problems=NUMBER.")


def _traced(each: trace.Trace, number: int, policy: Policy, reward: RewardModel) -> Rows:
    def word(token: int) -> str:
        return "end" if token in policy.eos_ids else policy.decode([token])

    names = {"problem": each.problem.id, "question": each.problem.question, "answer": each.problem.answer,
             "looked_at": number + 1}  # fmt: skip
    return {
        "rollouts": [{**names, "rollout": k, "kept": r.kept, "reward": r.reward, "accepted": r.accepted}
                     for k, r in enumerate(each.responses)],
        "tokens": [{"rollout": k, "position": p, "token": word(token), "confidence": confidence}
                   for k, r in enumerate(each.responses)
                   for p, (token, confidence) in enumerate(zip(r.tokens, r.confidence, strict=True))],
        "visits": [{**visit._asdict(), "old": word(visit.old), "new": word(visit.new)} for visit in each.visits],
    }  # fmt: skip


def trace_caption(rows: Rows, command: str, cell: grid.Cell) -> str:
    """figure2.md."""
    case, visits = rows["rollouts"][0], rows["visits"]
    proposals = [visit for visit in visits if visit["proposal"] is not None]
    free = sum(visit["reused"] and not visit["evaluations"] for visit in visits)
    evaluations = sum(visit["evaluations"] for visit in visits)
    settled = sum(row["confidence"] > cell["method"]["confidence_threshold"] for row in rows["tokens"]
                  if row["rollout"] == 0)  # fmt: skip
    length = sum(row["rollout"] == 0 for row in rows["tokens"])
    return f"""# figure2.png

Made by `{command}`; rows in `figures/data/figure2_*.csv`.

The framework on one problem: {case["question"]} ({cell["policy"]["name"]}, reward {cell["reward"]["name"]}, answer \
{case["answer"]}). Each line is a rollout; its tokens stand in cells. The first rollout had {settled} of {length} \
tokens above the confidence gate ({cell["method"]["confidence_threshold"]}), which are skipped. At {len(visits)} \
others the loop stopped: DTO moved the token's logits ({cell["method"]["num_iterations"]} steps) and a token was \
drawn from them. {len(visits) - len(proposals)} draws were the old token; {len(proposals)} differed and were rolled \
out behind, and stay only where the reward rose (r in nats, the log-likelihood under the reward model). The stops took \
{evaluations} gradient evaluations in all; {free} stop{"s" * (free != 1)} needed none, because ∂L/∂y \
depends on the hard tokens and these had not changed.

The case: the first test problem (number {case["looked_at"]} of {cell["num_problems"]}, {cell["task"]["name"]}, seed \
{cell["seed"]}) whose first rollout is wrong and whose answer is right, with at least two accepted and one rejected \
proposal, a draw of the old token and a reused gradient. A problem in which less happens is more common.
"""


TARGETS: dict[str, tuple[Callable, Callable, Callable[..., Figure]]] = {
    "figure1": (landscape_rows, landscape_caption, sketches.landscape),
    "figure2": (trace_rows, trace_caption, sketches.framework),
}


def write(target: str, words: Sequence[str]) -> tuple[Path, grid.Cell]:
    """Make one figure; returns its caption's file and the cell that it shows.

    Raises:
        ValueError: settings that do not go together or name several cells, or no case found.
    """
    cells = grid.compose_cells(["method=nabla_reasoner", *DEFAULTS[target], *words])
    if len(cells) != 1:
        raise ValueError(f"{target} shows one policy and task; got {len(cells)} choices. Give one value per setting.")
    (cell,) = cells
    make, describe, draw = TARGETS[target]
    rows = make(cell)
    folder = Path(cell["results_dir"], cell["scale_name"], target)
    folder.mkdir(parents=True, exist_ok=True)
    for name, own in rows.items():
        (folder / f"{target}_{name}.csv").write_text(tables.csv_text(list(own[0]), own), encoding="utf-8")
    figure = draw(*sketches.read(folder, target))
    figures.save(figure, folder, target)
    plt.close(figure)
    text = describe(rows, shlex.join(["./reproduce.sh", target, *words]), cell)
    (folder / f"{target}.md").write_text(text, encoding="utf-8")
    return folder / f"{target}.md", cell


def main(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    target, words = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    try:
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}; got {target!r}.")
        caption, _ = write(target, words)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG
    if not words:
        figures.exhibit(caption.parent, target, grid.ROOT / "figures")
    print(f"{caption.read_text(encoding='utf-8')}\nResults in {caption.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
