"""Page of one solved problem: every response, proposal and visited position, as one HTML file.

The page loads nothing: styles stand in it, charts are SVG, and switching between its two colourings needs no script.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..decoding.settings import NablaSettings
from ..decoding.trace import Response, Trace, Visit
from ..dto.reward_forms import REWARD_FORMS
from ..models.language_models import Policy, RewardModel
from . import templates

WIDTH, HEIGHT, MARGIN = 280, 96, 6  # of a chart, in its own units
VISIBLE = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥"})
DARKEST = 0.55  # opacity of the strongest colour, on which black text has a contrast of 7 : 1


class Chart(NamedTuple):
    """L by iteration of one descent, as the points of an SVG polyline; without points if it did not change."""

    points: str
    lowest: str
    highest: str
    iterations: int


def trace_page(
    trace: Trace, policy: Policy, reward: RewardModel, settings: NablaSettings, *, seed: int, verdict: str
) -> str:
    """Return the page.

    Args:
        trace: with the scores of its candidates (see `decoding.candidate_scores`).
        settings: of the search.
        verdict: a line on whether the answer is right.
    """
    largest = max((norm for response in trace.responses for norm in response.norms.values()), default=0.0)
    solution = trace.solution
    return (
        templates.environment()
        .get_template("trace.html")
        .render(
            question=trace.problem.question,
            answer=solution.response,
            verdict=verdict,
            facts={
                "policy": policy.name,
                "reward model": f"{reward.name} ({reward.kind})",
                "reward of the answer": "not computed" if solution.reward is None else number(solution.reward),
                "rollouts": f"{solution.search['rollouts']} of at most {settings.max_rollouts}",
                "proposals": f"{solution.search['accepted']} kept, {solution.search['rejected']} rejected",
                "visited positions": solution.search["visited"],
                "gradient evaluations": solution.cost.gradient_evaluations,
                "seed": seed,
            },
            gate=_gate(settings),
            norm_of="∂L/∂z" if settings.variant.gate == "logits" else "∂L/∂y",
            largest=number(largest),
            reward_form=settings.dto.reward_form,
            reward_forms=REWARD_FORMS,
            first=_response(trace.responses[0], policy, largest),
            steps=[_step(i, visit, trace, policy, settings, largest) for i, visit in enumerate(trace.visits, start=1)],
            passes=settings.num_passes,
            width=WIDTH,
            height=HEIGHT,
        )
    )


def fate(decision: dict[str, Any], acceptance: str) -> str:
    """Return whether a proposal was kept, and why.

    Args:
        decision: entry of `Solution.search["revisions"]`.
        acceptance: rule of the search (see `NablaSettings`).
    """
    if acceptance == "always":
        return "kept: every proposal is (acceptance=always)"
    what = "the reward" if acceptance == "higher" else "the reward of the text up to the token"
    if decision["accepted"]:
        return f"kept: {what} rose"
    when = "" if acceptance == "higher" else " before a rollout"
    return f"rejected{when}: {what} did not rise"


def token_text(policy: Policy, token: int) -> str:
    """Return a token as visible text: an end token as "end", part of a character as #N with the token's id N."""
    if token in policy.eos_ids:
        return "end"
    text = policy.tokenizer.decode([token]).translate(VISIBLE)
    return text if text and text.isprintable() and "\ufffd" not in text else f"#{token}"


def number(value: float) -> str:
    """Return a number with four significant digits and a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


def _gate(settings: NablaSettings) -> str:
    """Return which positions were visited."""
    first = f"a confidence of at most {settings.confidence_threshold:g}"
    if settings.variant.selection == "entropy":
        first = f"an entropy above {settings.entropy_threshold:g} nats"
    second = f" and a gradient norm of at least {settings.grad_threshold:g}" if settings.grad_threshold > 0 else ""
    return f"positions with {first}{second}"


def _response(response: Response, policy: Policy, largest: float) -> list[dict[str, Any]]:
    """Return a response's tokens: text, confidence, norm, opacities of the two colours, and the part they are in."""
    tokens = []
    for position, (token, confidence) in enumerate(zip(response.tokens, response.confidence, strict=True)):
        norm = response.norms.get(position)
        new = response.prefix_length - 1  # -1 in the first rollout, which has no such token
        tokens.append(
            {
                "text": token_text(policy, token),
                "position": position,
                "confidence": f"{100 * confidence:.0f}",
                "norm": "–" if norm is None else number(norm),
                "doubt": f"{DARKEST * (1 - confidence):.3f}",
                "force": f"{DARKEST * norm / largest:.3f}" if norm else "0",
                "part": "kept" if position < new else "new" if position == new else "rolled",
            }
        )
    return tokens


def _step(
    count: int, visit: Visit, trace: Trace, policy: Policy, settings: NablaSettings, largest: float
) -> dict[str, Any]:
    """Return what the page says of a visited position."""
    decision = visit.decision
    accepted, reason, rewards = None, "the draw kept the token: nothing was proposed", None
    if decision is not None:
        accepted, reason = decision["accepted"], fate(decision, settings.acceptance)
        if decision["reward"] is not None:
            rewards = number(decision["incumbent"]), number(decision["reward"])
    return {
        "count": count,
        "pass": visit.current_pass + 1,
        "position": visit.position,
        "old": token_text(policy, visit.old),
        "new": token_text(policy, visit.new),
        "kept": accepted,
        "reason": reason,
        "rewards": rewards,
        "evaluations": "∂L/∂y reused" if visit.reused else "∂L/∂y evaluated again",
        "flips": visit.evaluations - (0 if visit.reused else 1),
        "tokens": None if visit.proposal is None else _response(trace.responses[visit.proposal], policy, largest),
        "chart": _chart(visit.objective),
        "candidates": [
            {
                "text": token_text(policy, candidate.token),
                "marks": [
                    mark for mark, token in (("current", visit.old), ("drawn", visit.new)) if token == candidate.token
                ],
                "before": f"{100 * candidate.before:.1f}",
                "after": f"{100 * candidate.after:.1f}",
                "scores": [number(candidate.scores[form]) for form in REWARD_FORMS],
            }
            for candidate in visit.candidates
        ],
    }


def _chart(objective: Sequence[float]) -> Chart | None:
    """Return the chart of a descent; None without DTO."""
    if not objective:
        return None
    lowest, highest = min(objective), max(objective)
    if lowest == highest:
        return Chart("", number(lowest), number(highest), len(objective))
    across = (WIDTH - 2 * MARGIN) / (len(objective) - 1)
    down = (HEIGHT - 2 * MARGIN) / (highest - lowest)
    points = [f"{MARGIN + i * across:.1f},{MARGIN + (highest - value) * down:.1f}" for i, value in enumerate(objective)]
    return Chart(" ".join(points), number(lowest), number(highest), len(objective))
