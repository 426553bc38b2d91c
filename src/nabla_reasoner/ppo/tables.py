"""Tables and verdict of `./reproduce.sh ppo`: every number and every comparison in words is computed from its rows."""

from collections.abc import Sequence

import pandas as pd

COLUMNS = [
    "side",
    "method",
    "amount",
    "reward_weight",
    "trained_on",
    "measured_on",
    "kl",
    "kl_low",
    "kl_high",
    "tv",
    "reward",
    "kl_to_policy",
    "bound",
    "flops",
    "training_flops",
    "gradient_evaluations",
    "samples",
    "kl_floor",
    "tv_floor",
    "num_measured",
]
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
    "moves_without_gradient": "token moves without gradient, Metropolis test",
    "langevin_unadjusted": "token Langevin, no test",
    "logit_langevin": "DTO with √2 noise on logits",
    "logit_descent": "descent on logits without noise",
    "dto_argmax": "DTO on all tokens, argmax",
    "dto_resampled": "DTO on all tokens, redrawn",
    "dto_resampled_null": "tokens redrawn, no gradient",
    "nabla_reasoner": "∇-Reasoner as released",
    "nabla_without_gradient": "∇-Reasoner without gradient (null arm)",
    "nabla_without_rejection": "∇-Reasoner without rejection",
    "nabla_metropolis": "∇-Reasoner, Metropolis test",
    "nabla_metropolis_null": "∇-Reasoner without gradient, Metropolis test",
}
NEAR = 0.1  # nats to ρ* that count as having arrived
SHOWN = (4, 16, 64)  # amounts in the table, where a method has several
EXACT = (  # whose law tends to ρ* as more is spent
    "weighted_choice",
    "independent_metropolis",
    "langevin_metropolis",
    "moves_without_gradient",
    "nabla_metropolis",
    "nabla_metropolis_null",
)
PER_PROMPT = ("best_of_n", *EXACT, "dto_resampled", "nabla_reasoner")


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
                        {
                            "reward_weight": weight,
                            "target_kl": target,
                            "trained_on": int(count),
                            "training_flops": first.training_flops,
                            "held_out_kl": held_out,
                            "amortised_flops": draw,
                            "method": method,
                            "amount": int(other.amount),
                            "flops": other.flops,
                            "answers": answers,
                            "answers_per_prompt": answers / count,
                        }
                    )
    columns = [
        "reward_weight",
        "target_kl",
        "trained_on",
        "training_flops",
        "held_out_kl",
        "amortised_flops",
        "method",
        "amount",
        "flops",
        "answers",
        "answers_per_prompt",
    ]
    return pd.DataFrame(found, columns=columns)
