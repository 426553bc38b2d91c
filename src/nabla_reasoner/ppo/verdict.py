"""Text of the comparison (`ppo.md`): tables, and a verdict computed from their rows."""

import pandas as pd

from .tables import CHOICE_DRAWS, EXACT, NAMES, NEAR, PRINTED_AMOUNTS, cheapest, compared

BREAK_EVEN_METHODS = (
    "best_of_n",
    "independent_metropolis",
    "langevin_metropolis",
    "nabla_metropolis_null",
    "nabla_reasoner",
)


def _main_table(rows: pd.DataFrame, weight: float) -> list[str]:
    lines = [
        "| method | amount | KL to ρ* (range over prompts) | TV | E[r] | KL to π | MFLOPs/answer | training, GFLOPs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = rows[rows.reward_weight == weight]
    for method in NAMES:
        part = rows[rows.method == method]
        usual = part[part.amount.isin(PRINTED_AMOUNTS)]
        printed = part if len(part) == 1 or usual.empty else usual
        for row in printed.itertuples():
            floor = f"; floor {row.kl_floor:.3f}" if row.samples else ""
            bound = f" (≤ {row.bound:.2f})" if pd.notna(row.bound) else ""
            trained = f"{row.training_flops / 1e9:.1f}" if row.training_flops else "–"
            lines.append(
                f"| {NAMES[method]} | {row.amount} | {row.kl:.3f} ({row.kl_low:.3f}–{row.kl_high:.3f}{floor}) | "
                f"{row.tv:.3f} | {row.reward:.2f} | {row.kl_to_policy:.2f}{bound} | {row.flops / 1e6:.2f} | {trained} |"
            )
    return lines


def _by_weight(rows: pd.DataFrame) -> list[str]:
    """Return the table of KL to ρ* over λ, each method at its largest amount, Best-of-N at its best N."""
    weights = _weights(rows)
    head = " | ".join(f"{weight:g}" for weight in weights)
    lines = [f"| KL to ρ* at λ = | {head} |", "|---|" + "---|" * len(weights)]
    for method in NAMES:
        method_rows = rows[rows.method == method]
        cells = []
        for weight in weights:
            part = method_rows[method_rows.reward_weight == weight]
            if part.empty:
                cells.append("not run")
            elif method == "best_of_n":
                best = part.loc[part.kl.idxmin()]
                cells.append(f"{best.kl:.3f} (N = {best.amount})")
            else:
                cells.append(f"{part.loc[part.amount.idxmax()].kl:.3f}")
        name = NAMES[method]
        if method == "best_of_n":
            name = "Best-of-N, best N"
        elif method_rows.amount.nunique() > 1:
            name += f", {method_rows.amount.max()}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _crossing_table(crossing: pd.DataFrame) -> list[str]:
    lines = [
        "| KL at most | PPO trained on | training, GFLOPs | KL on new prompts | against | MFLOPs/answer | "
        "answers until training has paid | per prompt |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in crossing[crossing.method.isin(BREAK_EVEN_METHODS)].itertuples():
        lines.append(
            f"| {row.target_kl:g} | {row.trained_on} | {row.training_flops / 1e9:.2f} | {row.held_out_kl:.2f} | "
            f"{NAMES[row.method]}, {row.amount} | {row.flops / 1e6:.2f} | {row.answers:,.0f} | "
            f"{row.answers_per_prompt:,.0f} |"
        )
    return lines


def _weights(rows: pd.DataFrame) -> list[float]:
    return sorted(rows.reward_weight.unique())


def _last(rows: pd.DataFrame, method: str, weight: float) -> pd.Series:
    """Return a method's row at its largest amount."""
    part = rows[(rows.method == method) & (rows.reward_weight == weight)]
    return part.loc[part.amount.idxmax()]


def verdict(table: pd.DataFrame, crossing: pd.DataFrame, engine: dict[str, float], weight: float) -> str:
    """Return the verdict; the rows decide its phrases."""
    rows = compared(table)
    return "\n\n".join(
        (
            _samplers(rows, weight),
            _released(rows, weight),
            _gradient(rows, weight),
            _trained(table, weight) + " " + _break_even(crossing),
            _engine(engine),
        )
    )


def _engine(engine: dict[str, float]) -> str:
    """Compare the engine's own answers with the exact distribution of ∇-Reasoner."""
    return (
        f"**The engine.** {int(engine['draws'])} answers per prompt sampled with it differ from the exact "
        f"distribution of ∇-Reasoner by TV {engine['tv']:.3f}. As many exact samples differ by "
        f"{engine['tv_floor']:.3f} on average and {engine['tv_floor_high']:.3f} at most over 40 repeats. The engine "
        f"spent {engine['flops'] / 1e6:.1f} MFLOPs per answer."
    )


def _samplers(rows: pd.DataFrame, weight: float) -> str:
    """State whether sampling at test time reaches ρ*."""
    near, far = [], []
    for method in EXACT:
        worst = max(_last(rows, method, reward_weight).kl for reward_weight in _weights(rows))
        (near if worst <= NEAR else far).append(f"{NAMES[method]} ({worst:.2g})")
    noisy, plain, prior = (_last(rows, m, weight) for m in ("logit_langevin", "langevin_unadjusted", "policy"))
    enough = "not enough" if min(noisy.kl, plain.kl) > NEAR else "enough for at least one of two methods"
    more = f"; more for {', '.join(far)}" if far else ""
    return (
        f"**Sampling.** Worst KL to ρ* over λ at the largest amount: at most {NEAR} nats for "
        f"{', '.join(near) or 'no method'}{more}. Noise alone is {enough}: at λ = {weight:g} DTO with √2 noise on its "
        f"logits is {noisy.kl:.2f} nats away after {noisy.amount} steps, and token Langevin without a test "
        f"{plain.kl:.2f} (π itself {prior.kl:.2f})."
    )


def _released(rows: pd.DataFrame, weight: float) -> str:
    """State whether the released algorithm samples ρ*."""
    weights = _weights(rows)
    loop, star = (_last(rows, method, weight) for method in ("nabla_reasoner", "enumeration"))
    divergences = {reward_weight: _last(rows, "nabla_reasoner", reward_weight).kl for reward_weight in weights}
    best = min(divergences, key=divergences.get)
    farther = [
        f"{reward_weight:g}"
        for reward_weight in weights
        if divergences[reward_weight] > _last(rows, "policy", reward_weight).kl
    ]
    first, last = (_last(rows, "nabla_reasoner", reward_weight).reward for reward_weight in (weights[0], weights[-1]))
    star_first, star_last = (
        _last(rows, "enumeration", reward_weight).reward for reward_weight in (weights[0], weights[-1])
    )
    change = "a smaller change than" if last - first < star_last - star_first else "no smaller change than"
    except_at = f" and farther from it than π at λ = {', '.join(farther)}" if farther else ""
    return (
        f"**The released algorithm** is nearest to ρ* at λ = {best:g} ({divergences[best]:.2f} nats){except_at}. "
        f"From λ = {weights[0]:g} to {weights[-1]:g} its expected reward goes from {first:.2f} to {last:.2f}, {change} "
        f"the optimum's (from {star_first:.2f} to {star_last:.2f}). At λ = {weight:g} it has reward {loop.reward:.2f} "
        f"(ρ* {star.reward:.2f}) at {loop.kl_to_policy:.2f} nats from π (ρ* {star.kl_to_policy:.2f})."
    )


def _gradient(rows: pd.DataFrame, weight: float) -> str:
    """Compare the released loop with its null arm, and with methods without a gradient."""
    kl = {
        reward_weight: tuple(
            _last(rows, method, reward_weight).kl for method in ("nabla_reasoner", "nabla_without_gradient")
        )
        for reward_weight in _weights(rows)
    }
    better = [f"{reward_weight:g}" for reward_weight, (loop_kl, null_kl) in kl.items() if loop_kl < null_kl]
    worse = [f"{reward_weight:g}" for reward_weight, (loop_kl, null_kl) in kl.items() if loop_kl >= null_kl]
    loop, null = (_last(rows, method, weight) for method in ("nabla_reasoner", "nabla_without_gradient"))
    rows = rows[rows.reward_weight == weight]
    text = (
        f"**The gradient** brings the released loop nearer to ρ* at λ = {', '.join(better) or 'no value'}"
        + (f", not at λ = {', '.join(worse)}" if worse else "")
        + f" (λ = {weight:g}: {loop.kl:.2f} against {null.kl:.2f} without it, for {loop.flops / 1e6:.1f} against "
        f"{null.flops / 1e6:.1f} MFLOPs)."
    )
    choices = rows[(rows.method == "weighted_choice") & (rows.flops <= loop.flops)]
    if len(choices):
        choice = choices.loc[choices.kl.idxmin()]
        text += (
            f" Choosing one of {choice.amount} samples by e^{{λr}} costs {choice.flops / 1e6:.1f} MFLOPs and is "
            f"{choice.kl:.2f} nats away."
        )
    needed = []
    for method in ("langevin_metropolis", "moves_without_gradient", "independent_metropolis"):
        reached = cheapest(rows, method, 2 * NEAR)
        needed.append(f"{NAMES[method]} {'never' if reached is None else f'{reached.flops / 1e6:.1f}'}")
    return text + f" MFLOPs until {2 * NEAR} nats: {', '.join(needed)}."


def _trained(table: pd.DataFrame, weight: float) -> str:
    """State the distance from ρ* after training, on the prompts trained on and on new ones."""
    rows = compared(table)
    ppo, grpo, unscaled, prior = (_last(rows, m, weight) for m in ("ppo", "grpo", "grpo_unscaled", "policy"))
    held_out = table[(table.method == "ppo") & (table.measured_on == "held_out") & (table.reward_weight == weight)]
    distances = [
        f"{row.kl:.2f} (trained on {int(row.trained_on)})" for row in held_out.sort_values("trained_on").itertuples()
    ]
    return (
        f"**Training.** Over {int(ppo.trained_on)} prompts PPO ends {ppo.kl:.2f} nats from ρ* on the compared prompts, "
        f"GRPO {grpo.kl:.2f}, GRPO without the division by std {unscaled.kl:.2f} (π {prior.kl:.2f}). On new prompts "
        f"PPO is {', '.join(distances)} nats away."
    )


def _break_even(crossing: pd.DataFrame) -> str:
    """State the break-even of the tightest target that training on the most prompts reached."""
    if crossing.empty:
        return "Training reached none of the targets, so there is no break-even."
    rows = crossing[crossing.trained_on == crossing.trained_on.max()]
    rows = rows[rows.target_kl == rows.target_kl.min()].sort_values("answers")
    early, late = rows.iloc[0], rows.iloc[-1]
    usable = (
        "and this holds on new prompts too"
        if late.held_out_kl <= late.target_kl
        else f"on those prompts only (on new ones it is {late.held_out_kl:.2f} nats away)"
    )
    return (
        f"To be within {late.target_kl:g} nats there, PPO on {late.trained_on} prompts costs "
        f"{late.training_flops / 1e9:.1f} GFLOPs. That is paid back after {early.answers:,.0f} answers against "
        f"{NAMES[early.method]}, and after {late.answers:,.0f} ({late.answers_per_prompt:,.0f} per prompt) against "
        f"{NAMES[late.method]}, {usable}."
    )


def markdown(table: pd.DataFrame, crossing: pd.DataFrame, engine: dict[str, float], weight: float, command: str) -> str:
    """Return the text of ppo.md."""
    rows = compared(table)
    count = int(rows.num_measured.iloc[0])
    parts = [
        f"# Deamortised against amortised PPO\n\n`{command}`. λ = {weight:g}, means over {count} prompts with "
        f"{rows[rows.method == 'enumeration'].amount.iloc[0]} answers each. Distributions are exact, except in rows "
        f"with a floor, the KL that as many exact samples of ρ* show, and of {NAMES['weighted_choice']}: a mean over "
        f"{CHOICE_DRAWS:,} simulated sets of N. Every answer starts as a sample of π; ν = 1.",
        "\n".join(_main_table(rows, weight)),
        "Over λ, largest amounts:\n\n" + "\n".join(_by_weight(rows)),
        "Break-even:\n\n" + "\n".join(_crossing_table(crossing)),
        "## Verdict\n\n" + verdict(table, crossing, engine, weight),
    ]
    return "\n\n".join(parts) + "\n"
