"""The paper's claims C1 to C10, each judged by a stated rule from the rows that the commands leave.

A judgement is a function from `Evidence` to (verdict, sentence). Its docstring is the rule, printed beside the verdict.
Rows are dicts as read from the CSV files (every value text). Policies improved by training (`NAME-sft`, `NAME-grpo`) do
not count as cells of their own; ∇-Reasoner is the one-pass method. In doubt the weaker verdict is given.
"""

from collections.abc import Callable

from .evidence import (
    LABELS,
    NOT,
    NOT_RUN,
    NULL,
    OURS,
    PARTLY,
    REPRODUCED,
    SEARCHES,
    Claim,
    Evidence,
    Row,
    above,
    better,
    cell_name,
    checked,
    compared,
    improved,
    pooled,
    postfix_shares,
    span,
)


def accuracy(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: over greedy decoding (the only baseline over which the paper's own numbers show it) the paired gain
    exceeds 20 points with its whole 95 % interval in every cell. Partly: the gain itself exceeds 20 points in at least
    one cell and the interval excludes zero. Not reproduced: otherwise."""
    gains = compared(evidence.comparisons, "greedy", "rollouts")
    if not gains:
        return NOT_RUN, "no paired comparison with greedy decoding"
    above = [row for row in gains if float(row["difference"]) > 20 and row["verdict"] == "better"]
    firm = [row for row in gains if float(row["ci_low"]) > 20]
    best = compared(evidence.comparisons, "best_of_n", "rollouts")
    words = (
        f"{span(float(row['difference']) for row in gains)} points over greedy, above 20 in {len(above)} of "
        f"{len(gains)} cells ({len(firm)} with the whole interval)"
    )
    if best:
        words += f"; {span(float(row['difference']) for row in best)} over Best-of-N"
    return REPRODUCED if len(firm) == len(gains) else PARTLY if above else NOT, words


def model_calls(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: ∇-Reasoner needs at least 10 % fewer model calls (the paper's rule, nothing left out) than every
    sampling and search baseline in every cell, and none of them is shown to be more accurate as run. Partly: at least
    10 % fewer than Best-of-N in every cell. Not reproduced: otherwise."""
    rows = [row for row in evidence.calls if row["method"] in SEARCHES and row["saving_percent"]]
    if not rows:
        return NOT_RUN, "no count of model calls beside a baseline"
    cells = [row for row in rows if row["method"] == "best_of_n"]
    run = [row for name in SEARCHES for row in compared(evidence.comparisons, name, "rollouts")]
    worse, parts = [row for row in run if row["verdict"] == "worse"], []
    for name in dict.fromkeys(row["method"] for row in rows):
        savings = [float(row["saving_percent"]) for row in rows if row["method"] == name]
        parts.append(f"{span(savings, '.0f')} % against {LABELS[name]}")
    words = f"fewer calls: {', '.join(parts)}"
    words += f"; less accurate than the baseline in {len(worse)} comparisons" if worse else ""
    if all(float(row["saving_percent"]) >= 10 for row in rows) and not worse:
        return REPRODUCED, words
    return PARTLY if cells and all(float(row["saving_percent"]) >= 10 for row in cells) else NOT, words


def baselines(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: shown better, as run, than every sampling and search baseline in every cell, never shown worse at
    matched FLOPs, and never shown worse than SFT or GRPO. Partly: never shown worse in any of these comparisons, and
    better in at least half of those as run. Not reproduced: otherwise."""
    run = [row for name in SEARCHES for row in compared(evidence.comparisons, name, "rollouts")]
    if not run:
        return NOT_RUN, "no paired comparison with a sampling or search baseline"
    matched = [row for name in SEARCHES for row in compared(evidence.comparisons, name, "flops")]
    trained = [row for name in ("sft", "grpo") for row in compared(evidence.comparisons, name, "rollouts")]
    parts = []
    for name in SEARCHES:
        counts = []
        for words, matched_on in (("as run", "rollouts"), ("at matched FLOPs", "flops")):
            rows = compared(evidence.comparisons, name, matched_on)
            counts += [f"{better(rows)} {words}"] if rows else []
        parts += [f"{LABELS[name]} {', '.join(counts)}"] if counts else []
    parts += [f"SFT and GRPO {better(trained)}"] if trained else []
    parts[0] = f"better than {parts[0]}"
    ahead = sum(row["verdict"] == "better" for row in run)
    worse = [row for row in [*run, *matched, *trained] if row["verdict"] == "worse"]
    if not worse and ahead == len(run) and trained:
        return REPRODUCED, "; ".join(parts)
    return PARTLY if not worse and 2 * ahead >= len(run) else NOT, "; ".join(parts)


def reward_models(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: in every cell ∇-Reasoner's accuracies under all the rewards tried lie within 1 point. Partly: those
    of the two best rewards do (the paper compares two good ones). Not reproduced: otherwise."""
    cells: dict[tuple[str, str], list[float]] = {}
    for row in evidence.rewards:
        if row["method"] == OURS and row["accuracy"] and not improved(row["policy"]):
            cells.setdefault(cell_name(row), []).append(float(row["accuracy"]))
    cells = {key: sorted(values, reverse=True) for key, values in cells.items() if len(values) > 1}
    if not cells:
        return NOT_RUN, "no cell with more than one reward"
    whole = [values[0] - values[-1] for values in cells.values()]
    top = [values[0] - values[1] for values in cells.values()]
    most = max(len(values) for values in cells.values())
    words = (
        f"over {most} rewards accuracy spreads by {span(whole, '.1f')} points in {len(cells)} cells; the two best "
        f"rewards differ by {span(top, '.1f')}"
    )
    return REPRODUCED if max(whole) <= 1 else PARTLY if max(top) <= 1 else NOT, words


def rejected(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: in every cell the interval of ∇-Reasoner's rejection rate lies below Best-of-N's by both counting
    rules, and below the null arm's by the paper's rule (or it was the gate and the redraw, not the gradient). Partly:
    below Best-of-N's by the paper's rule in every cell. Not reproduced: otherwise."""
    rows = {
        (*cell_name(row), row["method"]): row
        for row in evidence.rejections
        if row["variant"] in ("fixed", "") and row["rejected"] and not improved(row["policy"])
    }
    cells = [key[:2] for key in rows if key[2] == OURS and (*key[:2], "best_of_n") in rows]
    if not cells:
        return NOT_RUN, "no cell with the rejections of both methods"
    ours, best = ([rows[*cell, name] for cell in cells] for name in (OURS, "best_of_n"))
    null = [rows[*cell, NULL] for cell in cells if (*cell, NULL) in rows]

    def below(low: Row, high: Row, prefix: str = "") -> bool:
        names = f"{prefix}ci_high", f"{prefix}ci_low"
        return bool(low[names[0]]) and bool(high[names[1]]) and float(low[names[0]]) < float(high[names[1]])

    first = [below(*pair) for pair in zip(ours, best, strict=True)]
    second = [below(*pair, "proposed_") for pair in zip(ours, best, strict=True)]
    third = [below(*pair) for pair in zip(ours, null, strict=True)] if len(null) == len(ours) else [False]
    words = (
        f"{span((float(row['rejected']) for row in ours), '.1f')} % against "
        f"{span((float(row['rejected']) for row in best), '.1f')} % of Best-of-N"
    )
    if null:
        words += f" and {span((float(row['rejected']) for row in null), '.1f')} % without gradient"
    words += f" ({len(cells)} cells, the paper's counting rule)"
    return REPRODUCED if all([*first, *second, *third]) else PARTLY if all(first) else NOT, words


def every_budget(evidence: Evidence) -> tuple[str, str]:
    """Each point of ∇-Reasoner's curve from two rollouts on is set beside Best-of-N and Self-Consistency at the
    smallest N that costs no less (at their largest, where none does). Reproduced: higher at every point on all three
    axes (model calls, FLOPs, seconds) in every cell, and Best-of-N gains less than 1 point from its last doubling.
    Partly: higher at its last point on the axis of model calls (the paper's) in every cell. Not reproduced:
    otherwise."""
    curves: dict[tuple[str, str, str], list[Row]] = {}
    for row in evidence.budgets:
        if not improved(row["policy"]):
            curves.setdefault((*cell_name(row), row["method"]), []).append(row)
    cells = [key[:2] for key in curves if key[2] == OURS and (*key[:2], "best_of_n") in curves]
    if not cells:
        return NOT_RUN, "no cell with both curves"
    counts, last = [], []
    for axis, words in (("model_calls", "calls"), ("flops", "FLOPs"), ("seconds", "seconds")):
        won = total = 0
        for cell in cells:
            points = [row for row in curves[*cell, OURS] if float(row["rollouts"]) >= 2]
            for number, point in enumerate(points, start=1):
                others = [curves[*cell, name] for name in ("best_of_n", "self_consistency") if (*cell, name) in curves]
                beaten = all(above(point, other, axis) for other in others)
                won, total = won + beaten, total + 1
                if axis == "model_calls" and number == len(points):
                    last.append(beaten)
        counts.append((won, total, words))
    rises = []
    for cell in cells:
        known = {float(row["rollouts"]): float(row["accuracy"]) for row in curves[*cell, "best_of_n"]}
        rises += [known[max(known)] - known[max(known) / 2]] if max(known) / 2 in known else []
    text = "above both at " + ", ".join(f"{won} of {total} points at equal {words}" for won, total, words in counts)
    text += f"; Best-of-N's last doubling still gives {span(rises)} points" if rises else ""
    if all(won == total for won, total, _ in counts) and rises and max(rises) < 1:
        return REPRODUCED, text
    return PARTLY if last and all(last) else NOT, text


def bidirectional(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: all checks of Prop. C.1 pass (the three terms sum to autograd's gradient, each is its own part,
    δ_postfix is zero at the last token), δ_postfix is at least 1 % of ∂L/∂z at λ = ν = 1 on average in every cell of
    models and task, and an ablation without all that comes from later tokens is shown worse than the default. Partly:
    the checks pass. Not reproduced: a check fails."""
    made, failed = checked(evidence.checks, "prop_c1_")
    if not made:
        return NOT_RUN, "no check of Prop. C.1"
    words = f"{len(made) - len(failed)} of {len(made)} checks of Prop. C.1 pass"
    shares = {weights: postfix_shares(evidence.terms, weights) for weights in ("eq2", "released")}
    if failed or not shares["eq2"]:
        return NOT if failed else PARTLY, words
    words += f"; δ_postfix is {span(shares['eq2'], '.1f')} % of ∂L/∂z at λ = ν = 1"
    words += f", {span(shares['released'], '.2g')} % with the released weights" if shares["released"] else ""
    past = pooled(evidence.ablations, "past_only")
    if not past:
        return PARTLY, f"{words}; whether it helps was not tested"
    values = [[float(row[name]) for name in ("difference", "difference_low", "difference_high")] for row in past]
    changes = [f"{value:+.1f} ({low:+.1f} to {high:+.1f})" for value, low, high in values]
    words += f"; without all that comes from later tokens accuracy changes by {', '.join(changes)} points"
    helps = all(row["verdict"] == "worse" for row in past)
    return REPRODUCED if helps and min(shares["eq2"]) >= 1 else PARTLY, words


def confident_tokens(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: all checks of Eq. 25 pass, and an ablation that optimises at every position, confident ones included,
    gains less than 5 points over the default with its whole 95 % interval. Partly: the checks pass. Not reproduced: a
    check fails."""
    made, failed = checked(evidence.checks, "eq25_")
    if not made:
        return NOT_RUN, "no check of Eq. 25"
    sizes = sorted({int(row["name"].rpartition("__V")[2]) for row in made})
    words = (
        f"the gradient vanishes for confident rows: {len(made) - len(failed)} of {len(made)} checks of Eq. 25 pass at "
        f"vocabularies of {sizes[0]:,} to {sizes[-1]:,} (uniform rows move little too in large ones)"
    )
    every = pooled(evidence.ablations, "every_position")
    if not every:
        return NOT if failed else PARTLY, f"{words}; that skipping them is safe was not tested"
    gains = [f"{float(row['difference']):+.1f} (to {float(row['difference_high']):+.1f})" for row in every]
    words += f"; optimising at every position instead changes accuracy by {', '.join(gains)} points"
    safe = all(float(row["difference_high"]) < 5 for row in every)
    return NOT if failed else REPRODUCED if safe else PARTLY, words


def sampler(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: the checks of the flow pass and ∇-Reasoner's law is within 0.05 nats of ρ* (KL, λ = 1). Partly: the
    checks of the flow pass, for particles with noise. Not reproduced: one fails."""
    starts = ("argmin_", "velocity_", "jko_", "particles_", "long_run_", "noise_")
    made, failed = checked(evidence.checks, *starts)
    if not made:
        return NOT_RUN, "no check of the flow"
    words = f"with √2 noise {len(made) - len(failed)} of {len(made)} checks of flow and limit pass"
    still, _ = checked(evidence.checks, "without_noise_is_not_rho_star")
    if still:
        words += f"; without noise the law is not ρ* ({sum(row['passed'] == 'True' for row in still)} of {len(still)})"
    found = [
        float(row["kl"])
        for row in evidence.ppo
        if (row["method"], row["measured_on"]) == (OURS, "compared") and float(row["reward_weight"]) == 1
    ]
    words += f"; ∇-Reasoner as run is {span(found, '.2f')} nats from ρ*" if found else ""
    if failed:
        return NOT, words
    return REPRODUCED if found and max(found) <= 0.05 else PARTLY, words


def affordable(evidence: Evidence) -> tuple[str, str]:
    """Reproduced: in every cell ∇-Reasoner takes at most 1.25 times Best-of-8's seconds (Table 5), and caching, reuse
    and selection take the gradients' FLOPs to at most half of the plain engine's (bench). Partly: one of the two holds
    in every cell. Not reproduced: otherwise."""
    seconds, flops = (
        [
            float(row["ratio"])
            for row in evidence.expenses
            if row["quantity"] == name and row["ratio"] and not improved(row["policy"])
        ]
        for name in ("seconds", "flops")
    )
    saved = [
        float(row["ratio_to_reference"])
        for row in evidence.bench
        if row["case"].startswith("gradient_flops") and row["variant"] == "fast" and row["ratio_to_reference"]
    ]
    if not seconds and not saved:
        return NOT_RUN, "neither Table 5 nor the benchmark"
    words = []
    if seconds:
        words.append(f"{span(flops, '.2f')} of Best-of-8's FLOPs (paper: 25.8)")
        words.append(f"{span(seconds, '.2f')} of its seconds (paper: 1.12)")
    if saved:
        words.append(f"gradients at {span(saved, '.2f')} of the plain engine's FLOPs")
    near, cheap = bool(seconds) and max(seconds) <= 1.25, bool(saved) and max(saved) <= 0.5
    return REPRODUCED if near and cheap else PARTLY if near or cheap else NOT, "; ".join(words)


Judge = Callable[[Evidence], tuple[str, str]]
CLAIMS: tuple[tuple[str, str, str, Judge], ...] = (
    ("C1", "accuracy up by more than 20 %", "table1", accuracy),
    ("C2", "10 to 40 % fewer model calls than strong baselines", "figure3, table1", model_calls),
    ("C3", "beats every test-time baseline, on a par with SFT and GRPO", "table1", baselines),
    ("C4", "insensitive to the reward model", "table2", reward_models),
    ("C5", "far fewer rejected candidates than Best-of-N", "table3", rejected),
    ("C6", "above Best-of-N and Self-Consistency at every budget; Best-of-N flattens", "figure4", every_budget),
    ("C7", "a token's gradient feels what follows it, which helps", "theorem, ablations", bidirectional),
    ("C8", "confident tokens cannot be moved, so skipping them is safe", "theorem, ablations", confident_tokens),
    ("C9", "DTO samples as the Wasserstein flow of the PPO objective", "theorem, ppo", sampler),
    ("C10", "caching, reuse and selection make it affordable", "table5, bench", affordable),
)


def judge(evidence: Evidence) -> list[Claim]:
    """All ten claims, judged from what was run."""
    return [
        Claim(name, text, *function(evidence), source, " ".join((function.__doc__ or "").split()))
        for name, text, source, function in CLAIMS
    ]
