"""The paper's claims C1 to C10: text, rule of the verdict, and where the evidence comes from."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from . import claim_rules
from .enough_evidence import TOO_LITTLE, Grid, counted, lacking, read_grid
from .evidence import NOT_RUN, Evidence


class Claim(NamedTuple):
    """A claim of the paper.

    Attributes:
        name: C1 to C10.
        text: the claim.
        targets: commands whose results are the evidence.
        decide: returns the verdict, and a sentence with numbers.
        rule: when each verdict is given.
    """

    name: str
    text: str
    targets: tuple[str, ...]
    decide: Callable[[Evidence], tuple[str, str]]
    rule: str


class Decision(NamedTuple):
    """A claim with its verdict, and the evidence for it in a sentence."""

    claim: Claim
    verdict: str
    evidence: str


CLAIMS = (
    Claim(
        "C1",
        "accuracy up by more than 20 %",
        ("table1",),
        claim_rules.accuracy,
        "Reproduced: in every cell the paired gain over greedy decoding exceeds 20 points with its whole 95 % "
        "interval. Partly: in at least one cell the gain exceeds 20 points, and its interval excludes zero. Not "
        "reproduced: otherwise. Over greedy decoding only do the paper's own numbers show such a gain.",
    ),
    Claim(
        "C2",
        "10 to 40 % fewer model calls than strong baselines",
        ("figure3", "table1"),
        claim_rules.model_calls,
        "Reproduced: in every cell ∇-Reasoner needs at least 10 % fewer model calls than every sampling and search "
        "baseline (the paper's rule, nothing left out), and none of them is shown to be more accurate as run. Partly: "
        "at least 10 % fewer than Best-of-N in every cell. Not reproduced: otherwise.",
    ),
    Claim(
        "C3",
        "beats every test-time baseline, on a par with SFT and GRPO",
        ("table1",),
        claim_rules.baselines,
        "Reproduced: in every cell ∇-Reasoner is shown better, as run, than every sampling and search baseline. It is "
        "never shown worse at matched FLOPs, and never shown worse than SFT or GRPO. Partly: it is never shown worse "
        "in any of these comparisons, and shown better in at least half of those as run. Not reproduced: otherwise.",
    ),
    Claim(
        "C4",
        "insensitive to the reward model",
        ("table2",),
        claim_rules.reward_models,
        "Reproduced: in every cell ∇-Reasoner's accuracies under all rewards are within 1 point. Partly: those under "
        "the two best rewards are (the paper compares two good ones). Not reproduced: otherwise.",
    ),
    Claim(
        "C5",
        "far fewer rejected candidates than Best-of-N",
        ("table3",),
        claim_rules.rejected,
        "Reproduced: in every cell the interval of ∇-Reasoner's rejection rate is below Best-of-N's by both counting "
        "rules, and below the null arm's by the paper's rule. (Otherwise the gate and the redraw would explain it, not "
        "the gradient.) Partly: below Best-of-N's by the paper's rule in every cell. Not reproduced: otherwise.",
    ),
    Claim(
        "C6",
        "above Best-of-N and Self-Consistency at every budget; Best-of-N flattens",
        ("figure4",),
        claim_rules.every_budget,
        "Each point of ∇-Reasoner's curve from two rollouts on is compared with Best-of-N and Self-Consistency at the "
        "smallest N that costs no less (at their largest N if none does). Reproduced: higher at every point on all "
        "three axes (model calls, FLOPs, seconds) in every cell, and Best-of-N gains less than 1 point from its last "
        "doubling. Partly: higher at its last point on the axis of model calls (the paper's) in every cell. Not "
        "reproduced: otherwise.",
    ),
    Claim(
        "C7",
        "a token's gradient depends on the tokens after it, which helps",
        ("theorem", "ablations"),
        claim_rules.bidirectional,
        "Reproduced: all checks of Prop. C.1 pass (the three terms sum to autograd's gradient, each is computed from "
        "its own part, δ_postfix is zero at the last token). δ_postfix is at least 1 % of ∂L/∂z at λ = ν = 1 on "
        "average, in every cell of models and task. An ablation without everything that comes from later tokens is "
        "shown worse than the default. Partly: the checks pass. Not reproduced: a check fails.",
    ),
    Claim(
        "C8",
        "confident tokens cannot be moved, so skipping them is safe",
        ("theorem", "ablations"),
        claim_rules.confident_tokens,
        "Reproduced: all checks of Eq. 25 pass. DTO makes no confident row prefer another token, under any reward "
        "measured; the gradient alone does not decide this, because Adam divides it by its size. An ablation that "
        "optimises at every position, including confident ones, gains less than 5 points over the default with its "
        "whole 95 % interval. Partly: the checks pass. Not reproduced: a check fails.",
    ),
    Claim(
        "C9",
        "DTO samples as the Wasserstein flow of the PPO objective",
        ("theorem", "ppo"),
        claim_rules.sampler,
        "Reproduced: the checks of the flow pass, and ∇-Reasoner's distribution is within 0.05 nats of ρ* (KL, λ = 1). "
        "Partly: the checks of the flow pass, for particles with noise. Not reproduced: one of them fails.",
    ),
    Claim(
        "C10",
        "caching, reuse and selection make it affordable",
        ("table5", "bench"),
        claim_rules.affordable,
        "Reproduced: in every cell ∇-Reasoner takes at most 1.25 times Best-of-8's seconds (Table 5; rows relative to "
        "another Best-of-N decide nothing). Caching, reuse and selection reduce the gradients' FLOPs to at most half "
        "of the plain engine's (bench). Partly: one of the two holds in every cell. Not reproduced: otherwise.",
    ),
)


def decide_claims(evidence: Evidence, grid: Grid | None = None) -> list[Decision]:
    """Decide all claims from the results on test problems; a verdict from too little evidence says that instead.

    Policies and tasks beyond those of a complete run count where they have as many problems as a verdict needs.

    Args:
        grid: what a complete run covers; None is that of scale=tiny, whose rows are committed.
    """
    grid, decisions = grid or read_grid("tiny"), []
    evidence, _ = counted(evidence.of_test_problems(), grid)
    for claim in CLAIMS:
        verdict, text = claim.decide(evidence)
        lack = "" if verdict == NOT_RUN else lacking(claim.name, evidence, grid)
        decisions.append(Decision(claim, TOO_LITTLE, f"{text}; {lack}") if lack else Decision(claim, verdict, text))
    return decisions


def evidence_table(decisions: Sequence[Decision], scale: str) -> str:
    """Format verdicts with their evidence as a Markdown table."""
    lines = ["| | claim | verdict | evidence | scale | from |", "|---|---|---|---|---|---|"]
    for claim, verdict, evidence in decisions:
        lines.append(f"| {claim.name} | {claim.text} | {verdict} | {evidence} | {scale} | {', '.join(claim.targets)} |")
    return "\n".join(lines) + "\n"


def verdict_table(decided: Mapping[str, Sequence[Decision]]) -> str:
    """Format verdicts with the commands of their evidence as a Markdown table.

    Args:
        decided: decisions on all claims, by scale; a column for each.
    """
    scales = "".join(f" `scale={scale}` |" for scale in decided)
    lines = [f"| | claim |{scales} command |", f"|---|---|{'---|' * len(decided)}---|"]
    for decisions in zip(*decided.values(), strict=True):
        claim = decisions[0].claim
        verdicts = "".join(f" {decision.verdict} |" for decision in decisions)
        commands = ", ".join(f"`./reproduce.sh {target}`" for target in claim.targets)
        lines.append(f"| {claim.name} | {claim.text} |{verdicts} {commands} |")
    return "\n".join(lines) + "\n"
