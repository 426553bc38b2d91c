"""Tables and verdict of `./reproduce.sh ppo`: every number and every comparison in words is computed from its rows."""

from collections.abc import Sequence

import pandas as pd

COLUMNS = [
    "side", "method", "amount", "reward_weight", "trained_on", "measured_on", "kl", "kl_low", "kl_high", "tv", "reward",
    "kl_to_policy", "bound", "flops", "training_flops", "gradient_evaluations", "samples", "kl_floor", "tv_floor",
    "num_measured",
]  # fmt: skip
NAMES = {
    "policy": "π itself",
    "enumeration": "ρ* by scoring every answer",
    "ppo": "PPO",
    "grpo": "GRPO",
    "grpo_unscaled": "GRPO without division by std",
    "best_of_n": "Best-of-N",
    "weighted_choice": "one of N, chosen by e^{λr}",
    "independent_metropolis": "fresh draws, Metropolis test",
    "langevin_metropolis": "token Langevin, Metropolis test",
    "moves_without_gradient": "the same moves without gradient",
    "langevin_unadjusted": "token Langevin, no test",
    "logit_langevin": "DTO with √2 noise on logits",
    "logit_descent": "the same without noise",
    "dto_argmax": "DTO, argmax",
    "dto_resampled": "DTO, tokens redrawn",
    "dto_resampled_null": "tokens redrawn, no gradient",
    "nabla_reasoner": "∇-Reasoner as released",
    "nabla_without_gradient": "its null arm, no gradient",
    "nabla_without_rejection": "∇-Reasoner without rejection",
    "nabla_metropolis": "∇-Reasoner, Metropolis test",
    "nabla_metropolis_null": "the same without gradient",
}
SHOWN = (4, 16, 64)  # amounts in the table, where a method has several
EXACT = ("weighted_choice", "independent_metropolis", "langevin_metropolis", "nabla_metropolis", "nabla_metropolis_null")
PER_PROMPT = ("best_of_n", *EXACT, "moves_without_gradient", "dto_resampled", "nabla_reasoner")


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that all methods share: the compared prompts; amortised policies trained on most prompts."""
    most = table.trained_on.max()
    return table[(table.measured_on == "compared") & (table.trained_on.isna() | (table.trained_on == most))]


def cheapest(rows: pd.DataFrame, method: str, target: float) -> pd.Series | None:
    """The cheapest amount of a method whose mean KL to ρ* is at most `target`; None where none is."""
    good = rows[(rows.method == method) & (rows.kl <= target)]
    return None if good.empty else good.sort_values("flops").iloc[0]


def break_even(table: pd.DataFrame, curves: pd.DataFrame, weight: float, targets: Sequence[float]) -> pd.DataFrame:
    """After how many answers training has paid, against each method that spends per prompt and reaches the target.

    Training costs C until the mean KL to ρ* on its own prompts is at most the target; then an answer costs c instead of
    the other's c', and training has paid after C/(c' - c) answers. A target that training never reached has no row.
    `held_out_kl` says whether those answers may be to new prompts.
    """
    rows = compared(table)
    rows = rows[(rows.reward_weight == weight) & (rows.side == "deamortised")]
    draw = table[table.side == "amortised"].flops.iloc[0]
    trained = curves[(curves.method == "ppo") & (curves.reward_weight == weight)]
    found = []
    for target in targets:
        for count, own in trained.groupby("trained_on"):
            reached = own[(own.measured_on == "trained") & (own.kl <= target)].sort_values("amount")
            if reached.empty:
                continue
            first = reached.iloc[0]
            held_out = own[(own.measured_on == "held_out") & (own.amount == first.amount)].kl.iloc[0]
            for method in PER_PROMPT:
                other = cheapest(rows, method, target)
                if other is not None and other.flops > draw:
                    answers = first.training_flops / (other.flops - draw)
                    found.append(
                        {"reward_weight": weight, "target_kl": target, "trained_on": int(count),
                         "training_flops": first.training_flops, "held_out_kl": held_out, "amortised_flops": draw,
                         "method": method, "amount": int(other.amount), "flops": other.flops,
                         "answers": answers, "answers_per_prompt": answers / count}
                    )  # fmt: skip
    columns = ["reward_weight", "target_kl", "trained_on", "training_flops", "held_out_kl", "amortised_flops", "method",
               "amount", "flops", "answers", "answers_per_prompt"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def _main_table(rows: pd.DataFrame, weight: float) -> list[str]:
    lines = [
        "| method | amount | KL to ρ* (range over prompts) | TV | E[r] | KL to π | MFLOPs an answer | training, GFLOPs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    own = rows[rows.reward_weight == weight]
    for method in NAMES:
        part = own[own.method == method]
        shown = part if len(part) == 1 else part[part.amount.isin(SHOWN)]
        for row in shown.itertuples():
            floor = f"; floor {row.kl_floor:.3f}" if row.samples else ""
            bound = f" (≤ {row.bound:.2f})" if pd.notna(row.bound) else ""
            trained = f"{row.training_flops / 1e9:.1f}" if row.training_flops else "–"
            lines.append(
                f"| {NAMES[method]} | {row.amount} | {row.kl:.3f} ({row.kl_low:.3f}–{row.kl_high:.3f}{floor}) | "
                f"{row.tv:.3f} | {row.reward:.2f} | {row.kl_to_policy:.2f}{bound} | {row.flops / 1e6:.2f} | {trained} |"
            )
    return lines


def _by_weight(rows: pd.DataFrame) -> list[str]:
    """KL to ρ* over λ, each method at its largest amount, Best-of-N at its best N."""
    weights = sorted(rows.reward_weight.unique())
    lines = [f"| KL to ρ* at λ = | {' | '.join(f'{weight:g}' for weight in weights)} |", "|---|" + "---|" * len(weights)]
    for method in NAMES:
        cells = []
        for weight in weights:
            part = rows[(rows.method == method) & (rows.reward_weight == weight)]
            if part.empty:
                cells.append("not run")
            elif method == "best_of_n":
                best = part.loc[part.kl.idxmin()]
                cells.append(f"{best.kl:.3f} (N = {best.amount})")
            else:
                cells.append(f"{part.loc[part.amount.idxmax()].kl:.3f}")
        amount = rows[rows.method == method].amount.max()
        name = NAMES[method] + (f", {amount}" if (rows[rows.method == method].amount.nunique() > 1) else "")
        lines.append(f"| {'Best-of-N, best N' if method == 'best_of_n' else name} | {' | '.join(cells)} |")
    return lines


def _crossing_table(crossing: pd.DataFrame) -> list[str]:
    lines = [
        "| KL at most | PPO trained on | training, GFLOPs | KL on new prompts | against | MFLOPs an answer | answers until "
        "training has paid | per prompt |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in crossing.itertuples():
        lines.append(
            f"| {row.target_kl:g} | {row.trained_on} | {row.training_flops / 1e9:.2f} | {row.held_out_kl:.2f} | "
            f"{NAMES[row.method]}, {row.amount} | {row.flops / 1e6:.2f} | {row.answers:,.0f} | "
            f"{row.answers_per_prompt:,.0f} |"
        )
    return lines


def _last(rows: pd.DataFrame, method: str, weight: float) -> pd.Series:
    own = rows[(rows.method == method) & (rows.reward_weight == weight)]
    return own.loc[own.amount.idxmax()]


def verdict(table: pd.DataFrame, crossing: pd.DataFrame, engine: dict[str, float], weight: float) -> str:
    """What the rows show, in words that depend on them."""
    rows = compared(table)
    weights = sorted(rows.reward_weight.unique())
    name = {method: words for method, words in NAMES.items()}
    worst = {method: max(_last(rows, method, each).kl for each in weights) for method in EXACT}
    converged = [f"{name[m]} ({worst[m]:.2g})" for m in EXACT if worst[m] <= 0.05]
    others = [f"{name[m]} ({worst[m]:.2g})" for m in EXACT if worst[m] > 0.05]
    prior, loop, null = (_last(rows, m, weight) for m in ("policy", "nabla_reasoner", "nabla_without_gradient"))
    star, whole = _last(rows, "enumeration", weight), _last(rows, "dto_resampled", weight)
    noisy, plain = _last(rows, "logit_langevin", weight), _last(rows, "langevin_unadjusted", weight)

    def against(row: pd.Series) -> str:
        return f"{row.kl:.2f} nats from ρ*, {'nearer than' if row.kl < prior.kl else 'no nearer than'} π ({prior.kl:.2f})"

    better = [each for each in weights if _last(rows, "nabla_reasoner", each).kl
              < _last(rows, "nabla_without_gradient", each).kl]  # fmt: skip
    worse = [each for each in weights if each not in better]
    spans = {
        method: [_last(rows, method, each).reward for each in (weights[0], weights[-1])]
        for method in ("enumeration", "nabla_reasoner")
    }
    choice = rows[(rows.method == "weighted_choice") & (rows.reward_weight == weight) & (rows.flops <= loop.flops)]
    same = choice.loc[choice.kl.idxmin()] if len(choice) else None
    ppo, grpo, unscaled = (_last(rows, m, weight) for m in ("ppo", "grpo", "grpo_unscaled"))
    held = table[(table.method == "ppo") & (table.measured_on == "held_out") & (table.reward_weight == weight)]
    sentences = [
        f"Worst KL to ρ* over λ at the largest amount: at most 0.05 nats for {', '.join(converged) or 'no method'}"
        + (f"; not yet for {', '.join(others)}." if others else "."),
        f"So test-time sampling can stand in for PPO, but at λ = {weight:g} neither noise alone nor the released "
        "algorithm does it: "
        f"DTO with √2 noise on its logits is {against(noisy)} after {noisy.amount} steps, token Langevin without a test "
        f"{against(plain)}, DTO with redrawn tokens {against(whole)}, ∇-Reasoner as released {against(loop)}.",
        f"From λ = {weights[0]:g} to {weights[-1]:g} the optimum's expected reward moves from {spans['enumeration'][0]:.2f}"
        f" to {spans['enumeration'][1]:.2f}, ∇-Reasoner's from {spans['nabla_reasoner'][0]:.2f} to "
        f"{spans['nabla_reasoner'][1]:.2f}; at λ = {weight:g} it has reward {loop.reward:.2f} (ρ* {star.reward:.2f}) at "
        f"{loop.kl_to_policy:.2f} nats from π (ρ* {star.kl_to_policy:.2f}).",
        f"The gradient brings the released loop nearer to ρ* than its null arm at λ = "
        f"{', '.join(f'{each:g}' for each in better) or 'no value'}"
        + (f", and not at λ = {', '.join(f'{each:g}' for each in worse)}" if worse else "")
        + f" (λ = {weight:g}: {loop.kl:.2f} against {null.kl:.2f}, for {loop.flops / 1e6:.1f} against "
        f"{null.flops / 1e6:.1f} MFLOPs)"
        + (f"; choosing one of {same.amount} draws by e^{{λr}}, no gradient, costs {same.flops / 1e6:.1f} MFLOPs and is "
           f"{same.kl:.2f} nats away." if same is not None else "."),
        f"Amortised over {int(ppo.trained_on)} prompts, PPO ends {ppo.kl:.2f} nats from ρ* on the compared prompts, GRPO "
        f"{grpo.kl:.2f} and GRPO without the division by std {unscaled.kl:.2f}. On prompts it has not seen, PPO is "
        + ", ".join(f"{row.kl:.2f} (trained on {int(row.trained_on)})" for row in held.itertuples())
        + " nats away.",
        _paid(crossing, name),
        f"The exact law of ∇-Reasoner used here agrees with the engine: {int(engine['draws'])} answers a prompt drawn with "
        f"it differ by TV {engine['tv']:.3f}, as many draws from that law by {engine['tv_floor']:.3f}; it spent "
        f"{engine['flops'] / 1e6:.1f} MFLOPs an answer, with what its caches save.",
    ]  # fmt: skip
    return " ".join(sentences)


def _paid(crossing: pd.DataFrame, name: dict[str, str]) -> str:
    """The sentence on break-even: the tightest target that training reached on most prompts."""
    if crossing.empty:
        return "Training reached none of the targets, so there is no break-even."
    own = crossing[crossing.target_kl == crossing.target_kl.min()]
    own = own[own.trained_on == own.trained_on.max()].sort_values("answers")
    low, high = own.iloc[-1], own.iloc[0]
    usable = "also on new prompts" if low.held_out_kl <= low.target_kl else (
        f"on those prompts only: on new ones it is {low.held_out_kl:.2f} nats away, where methods that work prompt by "
        "prompt need no training"
    )  # fmt: skip
    return (
        f"To be within {low.target_kl:g} nats, PPO on {low.trained_on} prompts costs {low.training_flops / 1e9:.1f} GFLOPs, "
        f"paid back after {low.answers:,.0f} answers against {name[low.method]} and {high.answers:,.0f} against "
        f"{name[high.method]}, {usable}."
    )


def markdown(
    table: pd.DataFrame, crossing: pd.DataFrame, engine: dict[str, float], weight: float, command: str
) -> str:
    """ppo.md."""
    rows = compared(table)
    count = int(rows.num_measured.iloc[0])
    parts = [
        f"# Deamortised against amortised PPO\n\n`{command}`. λ = {weight:g}, means over {count} prompts with 625 or as many "
        "answers as the space has; laws are exact but for rows with a floor (what as many exact draws from ρ* show).",
        "\n".join(_main_table(rows, weight)),
        "Over λ, largest amounts:\n\n" + "\n".join(_by_weight(rows)),
        "Break-even:\n\n" + "\n".join(_crossing_table(crossing)),
        "## Verdict\n\n" + verdict(table, crossing, engine, weight),
    ]
    return "\n\n".join(parts) + "\n"
