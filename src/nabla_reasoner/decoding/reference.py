"""The plain decoding loop: one problem, one position at a time, every gradient computed where it is needed.

Follows Alg. 3 line by line and shares nothing between positions; `decoding`'s lock-step loop is tested against it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import cost
from ..dto import equal_kl_moves, gradient_passes, reference
from ..engine import generation, numerics, scoring
from ..engine.generation import TokenPredictions
from ..engine.sampling import draw, keyed_uniforms
from ..engine.sequences import TokenSequence
from ..models.language_models import Policy, RewardModel
from .selection import gate_norms, uncertain
from .state import DecodingState, accept_or_reject, direction_key, note_rollout, scored_text


def decode_reference(
    method: Any, state: DecodingState, policy: Policy, reward: RewardModel, seed: int, repeat: int
) -> None:
    """Decode one problem in place.

    Args:
        method: the `decoding.NablaReasoner` whose settings apply.
        state: a fresh walk; holds the outcome afterwards.
    """

    def noise(stage: str, count: int):
        return keyed_uniforms(seed, state.problem.id, repeat, stage, count)

    def roll_out(kept: list[int]) -> list[int]:
        state.rollouts += 1
        limit = method.max_new_tokens - len(kept)
        if limit == 0 or (kept and kept[-1] in policy.eos_ids):
            return kept
        prefix = state.policy_prompt + kept
        stream = noise(f"rollout {state.rollouts - 1}", method.max_new_tokens)
        (drawn,) = generation.sample(policy, [prefix], [stream], method.rollout_sampling, [limit])
        state.spent.append(cost.prefill(policy.parameters, len(prefix)))
        state.spent.append(cost.decoding(policy.parameters, len(drawn.token_ids)))
        return kept + drawn.token_ids

    def score(response: list[int]) -> float:
        (value,), (spent,) = scoring.rewards(reward, [state.reward_prompt], [response])
        state.spent.append(spent)
        return value

    state.tokens = roll_out([])
    state.reward = score(state.tokens)
    note_rollout(state, policy)
    for state.current_pass in range(method.num_passes):
        position = 0
        while position < len(state.tokens) and state.rollouts < method.max_rollouts:
            state.cursor = position
            logits = _optimised_row(method, state, policy, reward, noise)
            if logits is not None:
                state.visited += 1
                uniform = torch.tensor(noise(f"resample {state.current_pass} {position}", 1), device=logits.device)
                token = draw(logits[None], uniform, method.resample_sampling).item()
                if token != state.tokens[position]:
                    response = roll_out(state.tokens[:position] + [token])
                    twice = method.variant.prompt_twice
                    state.incumbent = score(scored_text(state, method.variant)) if twice else state.reward
                    accept_or_reject(state, policy, position, token, response, score(response), method.acceptance)
            position += 1
        if state.rollouts == method.max_rollouts:
            break
    state.done = True


def _optimised_row(
    method: Any, state: DecodingState, policy: Policy, reward: RewardModel, noise: Callable[[str, int], np.ndarray]
) -> torch.Tensor | None:
    """Logits at the cursor after DTO, or None where a gate says to commit the token as it is."""
    position = state.cursor
    sequence = TokenSequence(state.policy_prompt, state.reward_prompt, state.tokens[:position], state.tokens[position:])
    states = predict(policy, sequence)
    state.spent.append(cost.policy_forward(policy.parameters, len(state.policy_prompt) + len(state.tokens)))
    variant = method.variant
    if 0 not in uncertain(states, variant, method.confidence_threshold, method.entropy_threshold):
        return None
    if variant.hard_tokens == "argmax":
        sequence = sequence._replace(rollout=policy.logits(states.hidden).argmax(-1).tolist())
    if method.grad_threshold > 0:
        (gradient,) = gradient_passes.evaluate(policy, reward, [sequence], terms=method.terms, **method.weights)
        state.spent.append(gradient.cost)
        temperature = method.descent.ste_temperature
        (norm,) = gate_norms(policy, gradient, states.hidden, [0], variant, temperature)
        if norm < method.grad_threshold:
            return None
    first = numerics.at_least_float32(policy.logits(states.hidden[0]))
    if not method.use_gradient:
        return first
    uniforms = None
    if method.descent.flip == "gumbel":
        places = range(position, len(state.tokens))
        uniforms = np.stack([noise(f"flip {place}", policy.vocab_size) for place in places])
    result = reference.optimize(
        policy,
        reward,
        sequence,
        update=variant.update,
        descent=method.descent,
        latents=states.hidden,
        uniforms=uniforms,
        terms=method.terms,
        **method.weights,
    )
    state.spent.append(result.cost)
    uniforms = noise(*direction_key(state, len(first)))[None] if method.move == "random" else None
    return equal_kl_moves.apply_move(method.move, first[None], result.logits[:1], uniforms)[0]


@torch.no_grad()
def predict(policy: Policy, sequence: TokenSequence) -> TokenPredictions:
    """What the policy predicts for each token of a rollout: one forward pass over the whole text."""
    hidden = reference.first_latents(policy, sequence)
    logits = numerics.at_least_float32(policy.logits(hidden))
    return TokenPredictions(hidden, numerics.confidence(logits), numerics.entropy(logits))
