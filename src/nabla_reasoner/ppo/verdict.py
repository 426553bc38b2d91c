"""Text of the comparison (`ppo.md`): tables and what they show."""

import pandas as pd

from .tables import EXACT, NAMES, NEAR, SHOWN, cheapest, compared

PRINTED = ("best_of_n", "independent_metropolis", "langevin_metropolis", "nabla_metropolis_null", "nabla_reasoner")


def _main_table(rows: pd.DataFrame, weight: float) -> list[str]:
    lines = [
        "| method | amount | KL to ρ* (range over prompts) | TV | E[r] | KL to π | MFLOPs/answer | training, GFLOPs |",
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
    head = " | ".join(f"{weight:g}" for weight in weights)
    lines = [f"| KL to ρ* at λ = | {head} |", "|---|" + "---|" * len(weights)]
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
        "| KL at most | PPO trained on | training, GFLOPs | KL on new prompts | against | MFLOPs/answer | "
        "answers until training has paid | per prompt |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in crossing[crossing.method.isin(PRINTED)].itertuples():
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
    return "\n\n".join(
        (
            _samplers(rows, weight),
            _released(rows, weight),
            _gradient(rows, weight),
            _trained(table, weight) + " " + _paid(crossing),
            f"The exact law of ∇-Reasoner beside the engine: {int(engine['draws'])} answers a prompt drawn with it "
            f"differ by TV {engine['tv']:.3f}, as many draws from that law by {engine['tv_floor']:.3f} on average and "
            f"{engine['tv_floor_high']:.3f} at most in 40 samples; it spent "
            f"{engine['flops'] / 1e6:.1f} MFLOPs an answer.",
        )
    )


def _samplers(rows: pd.DataFrame, weight: float) -> str:
    """Does sampling at test time arrive at ρ*?"""
    weights, near, far = sorted(rows.reward_weight.unique()), [], []
    for method in EXACT:
        worst = max(_last(rows, method, each).kl for each in weights)
        (near if worst <= NEAR else far).append(f"{NAMES[method]} ({worst:.2g})")
    noisy, plain, prior = (_last(rows, m, weight) for m in ("logit_langevin", "langevin_unadjusted", "policy"))
    return (
        f"**Sampling.** Worst KL to ρ* over λ at the largest amount: at most {NEAR} nats for "
        f"{', '.join(near) or 'no method'}" + (f"; more for {', '.join(far)}" if far else "") + ". Noise alone is "
        f"{'not enough' if min(noisy.kl, plain.kl) > NEAR else 'enough for one of two'}: at λ = {weight:g} DTO with √2 "
        f"noise on its logits is {noisy.kl:.2f} nats away after {noisy.amount} steps and token Langevin without a test "
        f"{plain.kl:.2f} (π itself {prior.kl:.2f})."
    )


def _released(rows: pd.DataFrame, weight: float) -> str:
    """Does the released algorithm sample ρ*?"""
    weights = sorted(rows.reward_weight.unique())
    loop, star = (_last(rows, method, weight) for method in ("nabla_reasoner", "enumeration"))
    divergences = {each: _last(rows, "nabla_reasoner", each).kl for each in weights}
    best = min(divergences, key=divergences.get)
    spans = [[_last(rows, m, each).reward for each in (weights[0], weights[-1])] for m in ("enumeration", loop.method)]
    farther = [f"{each:g}" for each in weights if divergences[each] > _last(rows, "policy", each).kl]
    return (
        f"**The released algorithm** is nearest to ρ* at λ = {best:g} ({divergences[best]:.2f} nats)"
        + (f" and farther from it than π at λ = {', '.join(farther)}" if farther else "")
        + f". From λ = {weights[0]:g} to {weights[-1]:g} its expected reward goes from {spans[1][0]:.2f} to "
        f"{spans[1][1]:.2f}, {'less' if spans[1][1] - spans[1][0] < spans[0][1] - spans[0][0] else 'no less'} far than "
        f"the optimum's (from {spans[0][0]:.2f} to {spans[0][1]:.2f}). At λ = "
        f"{weight:g} it has reward {loop.reward:.2f} (ρ* {star.reward:.2f}) at {loop.kl_to_policy:.2f} nats from π (ρ* "
        f"{star.kl_to_policy:.2f})."
    )


def _gradient(rows: pd.DataFrame, weight: float) -> str:
    """What the gradient is worth, against the same method without it and against draws without a gradient."""
    weights = sorted(rows.reward_weight.unique())
    loop, null = (_last(rows, method, weight) for method in ("nabla_reasoner", "nabla_without_gradient"))
    pairs = [(each, *(_last(rows, m, each).kl for m in (loop.method, null.method))) for each in weights]
    better = [f"{each:g}" for each, own, other in pairs if own < other]
    worse = [f"{each:g}" for each, own, other in pairs if own >= other]
    own = rows[rows.reward_weight == weight]
    words = (
        f"**The gradient** brings the released loop nearer to ρ* at λ = {', '.join(better) or 'no value'}"
        + (f", not at λ = {', '.join(worse)}" if worse else "")
        + f" (λ = {weight:g}: {loop.kl:.2f} against {null.kl:.2f} without it, for {loop.flops / 1e6:.1f} against "
        f"{null.flops / 1e6:.1f} MFLOPs)."
    )
    choice = own[(own.method == "weighted_choice") & (own.flops <= loop.flops)]
    if len(choice):
        same = choice.loc[choice.kl.idxmin()]
        words += (
            f" Choosing one of {same.amount} draws by e^{{λr}} costs {same.flops / 1e6:.1f} MFLOPs and is "
            f"{same.kl:.2f} nats away."
        )
    needed = []
    for method in ("langevin_metropolis", "moves_without_gradient", "independent_metropolis"):
        found = cheapest(own, method, 2 * NEAR)
        needed.append(f"{NAMES[method]} {'never' if found is None else f'{found.flops / 1e6:.1f}'}")
    return words + f" MFLOPs until {2 * NEAR} nats: {', '.join(needed)}."


def _trained(table: pd.DataFrame, weight: float) -> str:
    """Where training ends, on the prompts trained on and on new ones."""
    rows = compared(table)
    ppo, grpo, unscaled = (_last(rows, m, weight) for m in ("ppo", "grpo", "grpo_unscaled"))
    held = table[(table.method == "ppo") & (table.measured_on == "held_out") & (table.reward_weight == weight)]
    new = [f"{row.kl:.2f} (trained on {int(row.trained_on)})" for row in held.sort_values("trained_on").itertuples()]
    prior = _last(rows, "policy", weight)
    return (
        f"**Training.** Over {int(ppo.trained_on)} prompts PPO ends {ppo.kl:.2f} nats from ρ* on the compared prompts, "
        f"GRPO {grpo.kl:.2f}, GRPO without the division by std {unscaled.kl:.2f} (π {prior.kl:.2f}). On new prompts "
        f"PPO is {', '.join(new)} nats away."
    )


def _paid(crossing: pd.DataFrame) -> str:
    """The sentence on break-even: the tightest target that training on most prompts reached."""
    if crossing.empty:
        return "Training reached none of the targets, so there is no break-even."
    own = crossing[crossing.trained_on == crossing.trained_on.max()]
    own = own[own.target_kl == own.target_kl.min()].sort_values("answers")
    late, early = own.iloc[-1], own.iloc[0]
    usable = (
        "and this holds on new prompts too"
        if late.held_out_kl <= late.target_kl
        else f"on those prompts only (new ones: {late.held_out_kl:.2f} nats, where spending per prompt needs no training)"
    )
    return (
        f"To be within {late.target_kl:g} nats there, PPO on {late.trained_on} prompts costs "
        f"{late.training_flops / 1e9:.1f} GFLOPs. That is paid back after {early.answers:,.0f} answers against "
        f"{NAMES[early.method]}, and after {late.answers:,.0f} ({late.answers_per_prompt:,.0f} per prompt) against "
        f"{NAMES[late.method]}, {usable}."
    )


def markdown(table: pd.DataFrame, crossing: pd.DataFrame, engine: dict[str, float], weight: float, command: str) -> str:
    """ppo.md."""
    rows = compared(table)
    count = int(rows.num_measured.iloc[0])
    parts = [
        f"# Deamortised against amortised PPO\n\n`{command}`. λ = {weight:g}, means over {count} prompts with "
        f"{rows[rows.method == 'enumeration'].amount.iloc[0]} answers each; laws are exact but for rows with a floor "
        "(what as many exact draws from ρ* show). Every answer starts as a draw from π; ν = 1.",
        "\n".join(_main_table(rows, weight)),
        "Over λ, largest amounts:\n\n" + "\n".join(_by_weight(rows)),
        "Break-even:\n\n" + "\n".join(_crossing_table(crossing)),
        "## Verdict\n\n" + verdict(table, crossing, engine, weight),
    ]
    return "\n\n".join(parts) + "\n"
