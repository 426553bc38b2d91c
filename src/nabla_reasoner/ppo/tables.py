"""Tables of `./reproduce.sh ppo`: columns and names, selections of rows, break-even."""

from collections.abc import Sequence
from typing import NamedTuple

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
NEAR = 0.1  # nats; a distribution this close to ρ* counts as having reached it
CHOICE_DRAWS = 1000  # sets of samples over which the distribution of `weighted_choice` is a mean
PRINTED_AMOUNTS = (4, 16, 64)  # amounts in the main table, for methods with several
EXACT = (  # methods whose distribution tends to ρ* with more compute
    "weighted_choice",
    "independent_metropolis",
    "langevin_metropolis",
    "moves_without_gradient",
    "nabla_metropolis",
    "nabla_metropolis_null",
)
PER_PROMPT = ("best_of_n", *EXACT, "dto_resampled", "nabla_reasoner")


class BreakEven(NamedTuple):
    """One row of break_even.csv: training by PPO against a method that spends compute on each prompt.

    Attributes:
        target_kl: mean KL to ρ* that both must reach, in nats.
        trained_on: number of prompts trained on.
        held_out_kl: mean KL of the trained policy on new prompts; above the target, training is of no use for them.
        amortised_flops, flops: FLOPs of one answer, by the trained policy and by `method` at `amount`.
        answers, answers_per_prompt: number of answers after which training has paid off.
    """

    reward_weight: float
    target_kl: float
    trained_on: int
    training_flops: float
    held_out_kl: float
    amortised_flops: float
    method: str
    amount: int
    flops: float
    answers: float
    answers_per_prompt: float


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Select the rows that all methods share: the compared prompts, and policies trained on the most prompts."""
    most = table.trained_on.max()
    return table[(table.measured_on == "compared") & (table.trained_on.isna() | (table.trained_on == most))]


def main_weight(table: pd.DataFrame) -> float:
    """Return the λ of single comparisons, setting `main`: the only one at which GRPO without division by std runs."""
    return float(table[table.method == "grpo_unscaled"].reward_weight.iloc[0])


def cheapest(rows: pd.DataFrame, method: str, target: float) -> pd.Series | None:
    """Return the cheapest row of a method whose mean KL to ρ* is at most `target`; None if there is none."""
    reached = rows[(rows.method == method) & (rows.kl <= target)]
    return None if reached.empty else reached.sort_values("flops").iloc[0]


def break_even(table: pd.DataFrame, curves: pd.DataFrame, weight: float, targets: Sequence[float]) -> pd.DataFrame:
    """Compute after how many answers training has paid off, against each test-time method that reaches the target.

    Training costs C until the mean KL to ρ* on its own prompts is at most the target. Then an answer costs c instead of
    the other method's c', and training has paid off after C/(c' - c) answers. A target that training never reached has
    no row.
    """
    rows = compared(table)
    rows = rows[(rows.reward_weight == weight) & (rows.side == "deamortised")]
    answer_flops = table[table.side == "amortised"].flops.iloc[0]
    trained = curves[(curves.method == "ppo") & (curves.reward_weight == weight)]
    crossings = []
    for target in targets:
        for count, curve in trained.groupby("trained_on"):
            reached = curve[(curve.measured_on == "trained") & (curve.kl <= target)].sort_values("amount")
            if reached.empty:
                continue
            first = reached.iloc[0]
            held_out = curve[(curve.measured_on == "held_out") & (curve.amount == first.amount)].kl.iloc[0]
            for method in PER_PROMPT:
                other = cheapest(rows, method, target)
                if other is None or other.flops <= answer_flops:
                    continue
                answers = first.training_flops / (other.flops - answer_flops)
                crossings.append(
                    BreakEven(
                        reward_weight=weight,
                        target_kl=target,
                        trained_on=int(count),
                        training_flops=first.training_flops,
                        held_out_kl=held_out,
                        amortised_flops=answer_flops,
                        method=method,
                        amount=int(other.amount),
                        flops=other.flops,
                        answers=answers,
                        answers_per_prompt=answers / count,
                    )
                )
    return pd.DataFrame(crossings, columns=BreakEven._fields)
