"""Verdicts on the claims C1 to C10: a function for each rule in `claims`, which returns a verdict and a sentence.

Policies improved by training do not count as cells of their own. Verdicts are on the paper's method: one pass, and a
reward of the whole response. Where the prefix form was run, the sentence says what it does. `Claim.rule` says when each
verdict is given.
"""

from .evidence import (
    FLOW_CHECKS,
    NOT_RUN,
    PAPER_SAMPLES,
    Evidence,
    Row,
    above,
    best_of,
    better_count,
    cell_of,
    checked,
    compared,
    improved,
    num_samples,
    pooled,
    postfix_shares,
    rejection_rows,
    span,
)
from .method_names import BEST_OF_N, NABLA_REASONER, NULL_ARM, PREFIX, SEARCHES, STYLES, TRAINED

REPRODUCED, PARTLY, NOT = "reproduced", "partly", "not reproduced"


def accuracy(evidence: Evidence) -> tuple[str, str]:
    """Decide C1 from the paired gains over greedy decoding, the only baseline that the paper's own numbers support."""
    gains = compared(evidence.comparisons, "greedy", "rollouts")
    if not gains:
        return NOT_RUN, "no paired comparison with greedy decoding"
    large = [row for row in gains if row["difference"] > 20 and row["verdict"] == "better"]
    certain = [row for row in gains if row["ci_low"] > 20]
    best = compared(evidence.comparisons, BEST_OF_N, "rollouts")
    text = (
        f"{span(row['difference'] for row in gains)} points over greedy, above 20 in {len(large)} of "
        f"{len(gains)} cells ({len(certain)} with the whole interval)"
    )
    if best:
        text += f"; {span(row['difference'] for row in best)} over Best-of-N"
    prefix = compared(evidence.comparisons, "greedy", "rollouts", PREFIX)
    if prefix:
        text += f"; in prefix form {span(row['difference'] for row in prefix)} over greedy"
    return REPRODUCED if len(certain) == len(gains) else PARTLY if large else NOT, text


def model_calls(evidence: Evidence) -> tuple[str, str]:
    """Decide C2 from the share of a baseline's calls that is saved, and from accuracy as run."""
    rows = [row for row in evidence.calls if row["method"] in SEARCHES and row["saving_percent"] is not None]
    if not rows:
        return NOT_RUN, "no count of model calls beside a baseline"
    best = [row["saving_percent"] for row in rows if row["method"] == BEST_OF_N]
    as_run = [row for name in SEARCHES for row in compared(evidence.comparisons, name, "rollouts")]
    worse, parts = [row for row in as_run if row["verdict"] == "worse"], []
    for name in dict.fromkeys(row["method"] for row in rows):
        savings = [row["saving_percent"] for row in rows if row["method"] == name]
        parts.append(f"{span(savings, '.0f')} % against {STYLES[name].name}")
    text = f"fewer calls: {', '.join(parts)}"
    text += f"; less accurate than the baseline in {len(worse)} comparisons" if worse else ""
    if all(row["saving_percent"] >= 10 for row in rows) and not worse:
        return REPRODUCED, text
    return PARTLY if best and min(best) >= 10 else NOT, text


def baselines(evidence: Evidence) -> tuple[str, str]:
    """Decide C3 from the paired comparisons as run and at matched FLOPs."""
    as_run = [row for name in SEARCHES for row in compared(evidence.comparisons, name, "rollouts")]
    if not as_run:
        return NOT_RUN, "no paired comparison with a sampling or search baseline"
    matched = [row for name in SEARCHES for row in compared(evidence.comparisons, name, "flops")]
    trained = [row for name in TRAINED for row in compared(evidence.comparisons, name, "rollouts")]
    parts = []
    for name in SEARCHES:
        counts = []
        for how, matched_on in (("as run", "rollouts"), ("at matched FLOPs", "flops")):
            rows = compared(evidence.comparisons, name, matched_on)
            counts += [f"{better_count(rows)} {how}"] if rows else []
        parts += [f"{STYLES[name].name} {', '.join(counts)}"] if counts else []
    parts += [f"SFT and GRPO {better_count(trained)}"] if trained else []
    text = f"better than {'; '.join(parts)}"
    prefix = [row for name in SEARCHES for row in compared(evidence.comparisons, name, "flops", PREFIX)]
    text += f"; in prefix form {better_count(prefix)} at matched FLOPs" if prefix else ""
    better = sum(row["verdict"] == "better" for row in as_run)
    worse = [row for row in [*as_run, *matched, *trained] if row["verdict"] == "worse"]
    if not worse and better == len(as_run) and trained:
        return REPRODUCED, text
    return PARTLY if not worse and 2 * better >= len(as_run) else NOT, text


def reward_models(evidence: Evidence) -> tuple[str, str]:
    """Decide C4 from how far accuracies under different rewards are apart, for each form of the reward."""
    text, spreads, best_two = _reward_spread(evidence, NABLA_REASONER)
    if not spreads:
        return NOT_RUN, text
    prefix = _reward_spread(evidence, PREFIX)
    text += f"; in prefix form, {prefix[0]}" if prefix[1] else ""
    return REPRODUCED if max(spreads) <= 1 else PARTLY if max(best_two) <= 1 else NOT, text


def _reward_spread(evidence: Evidence, method: str) -> tuple[str, list[float | int], list[float | int]]:
    """Return a sentence, and by cell the spread over all rewards and the difference of the two best."""
    cells: dict[tuple[str, str], list[float | int]] = {}
    for row in evidence.rewards:
        if row["method"] == method and row["accuracy"] is not None and not improved(row["policy"]):
            cells.setdefault(cell_of(row), []).append(row["accuracy"])
    ordered = [sorted(values, reverse=True) for values in cells.values() if len(values) > 1]
    if not ordered:
        return "no cell with more than one reward", [], []
    spreads = [values[0] - values[-1] for values in ordered]
    best_two = [values[0] - values[1] for values in ordered]
    text = (
        f"over {max(map(len, ordered))} rewards accuracy spreads by {span(spreads, '.1f')} points in {len(ordered)} "
        f"cells; the two best rewards differ by {span(best_two, '.1f')}"
    )
    return text, spreads, best_two


def rejected(evidence: Evidence) -> tuple[str, str]:
    """Decide C5 from the intervals of the rejection rates."""
    rows = {(*cell_of(row), row["method"]): row for row in rejection_rows(evidence) if not improved(row["policy"])}
    cells = [key[:2] for key in rows if key[2] == NABLA_REASONER and (*key[:2], BEST_OF_N) in rows]
    if not cells:
        return NOT_RUN, "no cell with the rejections of both methods"
    ours, best = ([rows[*cell, name] for cell in cells] for name in (NABLA_REASONER, BEST_OF_N))
    null = [rows[*cell, NULL_ARM] for cell in cells if (*cell, NULL_ARM) in rows]

    def below(others: list[Row], prefix: str = "") -> list[bool]:
        pairs = zip(ours, others, strict=True)
        limits = [(low[f"{prefix}ci_high"], high[f"{prefix}ci_low"]) for low, high in pairs]
        return [None not in pair and pair[0] < pair[1] for pair in limits]

    by_paper = below(best)
    without_gradient = below(null) if len(null) == len(ours) else [False]
    rates = [span((row["rejected"] for row in side), ".1f") if side else "" for side in (ours, best, null)]
    text = f"{rates[0]} % against {rates[1]} % of Best-of-N" + (f" and {rates[2]} % without gradient" if null else "")
    text += f" ({len(cells)} cells, the paper's counting rule)"
    if all([*by_paper, *below(best, "proposed_"), *without_gradient]):
        return REPRODUCED, text
    return PARTLY if all(by_paper) else NOT, text


def every_budget(evidence: Evidence) -> tuple[str, str]:
    """Decide C6 from the curves of accuracy against model calls, FLOPs and seconds."""
    curves: dict[tuple[str, str, str], list[Row]] = {}
    for row in evidence.budgets:
        if not improved(row["policy"]):
            curves.setdefault((*cell_of(row), row["method"]), []).append(row)
    cells = [key[:2] for key in curves if key[2] == NABLA_REASONER and (*key[:2], BEST_OF_N) in curves]
    if not cells:
        return NOT_RUN, "no cell with both curves"

    def beaten(cell: tuple[str, str], axis: str) -> list[bool]:
        others = [curves[*cell, name] for name in (BEST_OF_N, "self_consistency") if (*cell, name) in curves]
        points = [row for row in curves[*cell, NABLA_REASONER] if row["rollouts"] >= 2]
        return [all(above(point, other, axis) for other in others) for point in points]

    won = {axis: [beaten(cell, axis) for cell in cells] for axis in ("model_calls", "flops", "seconds")}
    names = {"model_calls": "calls", "flops": "FLOPs", "seconds": "seconds"}
    counts = [f"{sum(map(sum, won[axis]))} of {sum(map(len, won[axis]))} points at equal {names[axis]}" for axis in won]
    last = [points[-1] for points in won["model_calls"] if points]
    rises = []
    for cell in cells:
        known = {row["rollouts"]: row["accuracy"] for row in curves[*cell, BEST_OF_N]}
        rises += [known[max(known)] - known[max(known) / 2]] if max(known) / 2 in known else []
    text = f"above both at {', '.join(counts)}"
    text += f"; Best-of-N's last doubling still gives {span(rises)} points" if rises else ""
    everywhere = all(point for axis in won.values() for cell_points in axis for point in cell_points)
    if everywhere and rises and max(rises) < 1:
        return REPRODUCED, text
    return PARTLY if last and all(last) else NOT, text


def bidirectional(evidence: Evidence) -> tuple[str, str]:
    """Decide C7 from the checks of Prop. C.1, the size of δ_postfix, and the ablation without later tokens."""
    checks, failed = checked(evidence.checks, "prop_c1_")
    if not checks:
        return NOT_RUN, "no check of Prop. C.1"
    text = f"{len(checks) - len(failed)} of {len(checks)} checks of Prop. C.1 pass"
    shares = {weights: postfix_shares(evidence.terms, weights) for weights in ("eq2", "released")}
    if failed or not shares["eq2"]:
        return NOT if failed else PARTLY, text
    text += f"; δ_postfix is {span(shares['eq2'], '.1f')} % of ∂L/∂z at λ = ν = 1"
    text += f", {span(shares['released'], '.2g')} % with the released weights" if shares["released"] else ""
    past = pooled(evidence.ablations, "past_only")
    if not past:
        return PARTLY, f"{text}; whether it helps was not tested"
    changes = [
        f"{row['difference']:+.1f} ({row['difference_low']:+.1f} to {row['difference_high']:+.1f})" for row in past
    ]
    text += f"; without all that comes from later tokens accuracy changes by {', '.join(changes)} points"
    prefix = compared(evidence.comparisons, NABLA_REASONER, "rollouts", PREFIX)
    if prefix:
        text += (
            f" with a likelihood reward; reading the reward at the token itself, and nothing later, changes it by "
            f"{span(row['difference'] for row in prefix)} points under Table 1's reward"
        )
    helps = all(row["verdict"] == "worse" for row in past)
    return REPRODUCED if helps and min(shares["eq2"]) >= 1 else PARTLY, text


def confident_tokens(evidence: Evidence) -> tuple[str, str]:
    """Decide C8 from the checks of Eq. 25, how far DTO moves confident rows, and DTO at every position."""
    checks, failed = checked(evidence.checks, "eq25_")
    if not checks:
        return NOT_RUN, "no check of Eq. 25"
    sizes = sorted({int(row["name"].rpartition("__V")[2]) for row in checks})
    text = (
        f"the gradient vanishes for confident rows: {len(checks) - len(failed)} of {len(checks)} checks of Eq. 25 pass "
        f"at vocabularies of {sizes[0]:,} to {sizes[-1]:,} (uniform rows move little too in large ones)"
    )
    confident = [row for row in evidence.movement if row["confident"] == "True"]
    for reward in dict.fromkeys(row["reward"] for row in confident):
        rows = [row for row in confident if row["reward"] == reward]
        text += (
            f"; with the reward {reward} DTO flips {span((row['flipped'] for row in rows), '.1f')} % of the confident "
            f"rows and moves a logit by up to {max(row['largest_change'] for row in rows):.1f}"
        )
    still = bool(confident) and max(row["flipped"] for row in confident) == 0
    every = pooled(evidence.ablations, "every_position")
    if not every:
        return NOT if failed else PARTLY, f"{text}; that skipping them is safe was not tested"
    gains = [f"{row['difference']:+.1f} (to {row['difference_high']:+.1f})" for row in every]
    text += f"; optimising at every position instead changes accuracy by {', '.join(gains)} points"
    safe = all(row["difference_high"] < 5 for row in every)
    return NOT if failed else REPRODUCED if safe and still else PARTLY, text


def sampler(evidence: Evidence) -> tuple[str, str]:
    """Decide C9 from the checks of the flow, and from ∇-Reasoner's distance to the optimal distribution ρ*."""
    checks, failed = checked(evidence.checks, *FLOW_CHECKS)
    if not checks:
        return NOT_RUN, "no check of the flow"
    text = f"with √2 noise {len(checks) - len(failed)} of {len(checks)} checks of flow and limit pass"
    noiseless, different = checked(evidence.checks, "without_noise_is_not_rho_star")
    if noiseless:
        passed = len(noiseless) - len(different)
        text += f"; without noise the distribution is not ρ* ({passed} of {len(noiseless)})"
    distances = [
        row["kl"]
        for row in evidence.ppo
        if (row["method"], row["measured_on"], row["reward_weight"]) == (NABLA_REASONER, "compared", 1)
    ]
    text += f"; ∇-Reasoner as run is {span(distances, '.2f')} nats from ρ*" if distances else ""
    if failed:
        return NOT, text
    return REPRODUCED if distances and max(distances) <= 0.05 else PARTLY, text


def affordable(evidence: Evidence) -> tuple[str, str]:
    """Decide C10 from seconds relative to Best-of-8, and from gradient FLOPs relative to the plain engine.

    Rows relative to a Best-of-N of another size are shown, under its name, and decide nothing.
    """
    expenses = [row for row in evidence.expenses if row["ratio"] is not None and not improved(row["policy"])]
    seconds, flops, prefix_seconds, prefix_flops = (
        [row["ratio"] for row in expenses if (row["method"], row["quantity"]) == (method, quantity)]
        for method in (NABLA_REASONER, PREFIX)
        for quantity in ("seconds", "flops")
    )
    gradients = [
        row["ratio_to_reference"]
        for row in evidence.bench
        if row["case"].startswith("gradient_flops")
        and row["variant"] == "fast"
        and row["ratio_to_reference"] is not None
    ]
    if not seconds and not gradients:
        return NOT_RUN, "neither Table 5 nor the benchmark"
    baseline, paper = best_of(map(num_samples, expenses)), best_of([PAPER_SAMPLES])
    decisive = [row for row in expenses if (row["method"], row["quantity"]) == (NABLA_REASONER, "seconds")]
    decisive = [row["ratio"] for row in decisive if num_samples(row) == PAPER_SAMPLES]
    parts = []
    if seconds:
        against = "paper" if baseline == paper else f"paper, of {paper}"
        parts.append(f"{span(flops, '.2f')} of {baseline}'s FLOPs ({against}: 25.8)")
        parts.append(f"{span(seconds, '.2f')} of its seconds (paper: 1.12)")
    if prefix_seconds:
        parts.append(
            f"in prefix form {span(prefix_flops, '.2f')} of its FLOPs and {span(prefix_seconds, '.2f')} of its seconds"
        )
    if gradients:
        parts.append(f"gradients at {span(gradients, '.2f')} of the plain engine's FLOPs")
    held = [bool(decisive) and max(decisive) <= 1.25, bool(gradients) and max(gradients) <= 0.5]
    return REPRODUCED if all(held) else PARTLY if any(held) else NOT, "; ".join(parts)
