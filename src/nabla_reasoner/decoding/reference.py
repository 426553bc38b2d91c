"""The ∇-Reasoner loop as it is printed (Alg. 3, arXiv 2603.04948): one problem and one position at a time.

Five steps at every position, one method each:

    select     skip the position if the policy is certain of its token
    gradient   evaluate ∂L/∂y; skip the position if its norm is small
    optimise   update the logits of the position by DTO, and draw a token from them
    propose    if the token is new: sample a rollout after it, and score the whole response
    accept     keep the proposed response if its reward is higher than the current one's

With acceptance "prefix_higher" a new token is tested before `propose`, and with "always" nothing is tested.

Nothing is shared between positions. `batched` takes the same steps for many problems and is tested against this loop.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .. import cost
from ..dto import equal_kl_moves, gradient_passes, objective
from ..dto import reference as dto_reference
from ..engine import numerics, scoring
from ..engine.continuous_batching import TokenPredictions
from ..engine.sampling import draw
from ..engine.sequences import TokenSequence
from ..engine.trajectory import shared_seconds
from ..models.language_models import Policy, RewardModel
from ..serving.rollouts import rollouts_of
from .selection import gate_norms, uncertain
from .settings import NablaSettings
from .state import (
    DecodingState,
    accept_or_reject,
    direction_stage,
    hard_sequence,
    is_new,
    note_proposal,
    note_rollout,
    scored_text,
)


@dataclass(frozen=True)
class ReferenceDecoder:
    """The loop for one problem, whose `state` holds the outcome after `run`."""

    settings: NablaSettings
    state: DecodingState
    policy: Policy
    reward: RewardModel

    def run(self) -> None:
        """Sample the first rollout, then revise it from left to right, `num_passes` times or until N_max is used."""
        state = self.state
        with shared_seconds([state.trajectory]):
            state.tokens = self.roll_out([])
            if self.settings.acceptance == "higher":
                state.reward = self.score(state.tokens)
        note_rollout(state, self.policy)
        for state.current_pass in range(self.settings.num_passes):
            position = 0
            while position < len(state.tokens) and state.rollouts < self.settings.max_rollouts:
                state.cursor = position
                with shared_seconds([state.trajectory]):
                    proposal = self.revise()
                if proposal is not None:
                    self.accept(*proposal)
                position += 1
            if state.rollouts == self.settings.max_rollouts:
                break
        state.done = True

    def revise(self) -> tuple[int, list[int], float | None] | None:
        """Take the first four steps at the cursor; return token, response and reward of a proposal, or None."""
        state = self.state
        predictions = self.predict()
        if not self.select(predictions):
            return None
        sequence = hard_sequence(state, self.policy, predictions.hidden, self.settings.variant)
        if not self.gradient(sequence, predictions):
            return None
        state.visited += 1
        token = self.optimise(sequence, predictions)
        if not is_new(token, state, self.reward):
            return None
        prefix_reward = None
        if self.settings.acceptance == "prefix_higher":
            state.incumbent, prefix_reward = self.score_token(state.tokens[state.cursor]), self.score_token(token)
            if prefix_reward <= state.incumbent:
                note_proposal(state, token, prefix_reward, accepted=False)
                return None
        response, reward = self.propose(token)
        return token, response, reward if prefix_reward is None else prefix_reward

    def select(self, predictions: TokenPredictions) -> bool:
        """Return whether the policy is uncertain of the token at the cursor."""
        return 0 in uncertain(predictions, self.settings)

    def gradient(self, sequence: TokenSequence, predictions: TokenPredictions) -> bool:
        """Return whether the norm of the gradient at the cursor reaches ε_grad; evaluates nothing if ε_grad is 0."""
        settings = self.settings
        if settings.grad_threshold == 0:
            return True
        (gradient,) = gradient_passes.evaluate(
            self.policy, self.reward, [settings.dto.relevant_part(sequence)], **settings.dto.objective
        )
        self.state.trajectory.charge(gradient.cost)
        ((norm,),) = gate_norms(self.policy, [(gradient, predictions.hidden)], [[0]], settings)
        return norm >= settings.grad_threshold

    def optimise(self, sequence: TokenSequence, predictions: TokenPredictions) -> int:
        """Return a token drawn from the logits at the cursor after DTO, or from the policy's own without DTO."""
        settings, state = self.settings, self.state
        logits = numerics.at_least_float32(self.policy.logits(predictions.hidden[0]))[None]
        if settings.use_gradient:
            uniforms = None
            if settings.dto.flip == "gumbel":
                size, positions = self.policy.vocab_size, range(state.cursor, len(state.tokens))
                uniforms = np.stack([state.uniforms(f"flip {position}", size) for position in positions])
            result = dto_reference.optimize(
                self.policy, self.reward, sequence, settings.dto, latents=predictions.hidden, uniforms=uniforms
            )
            state.trajectory.charge(result.cost)
            direction = None
            if settings.move == "random":
                direction = state.uniforms(direction_stage(state), logits.shape[1])[None]
            logits = equal_kl_moves.apply_move(settings.move, logits, result.logits[:1], direction)
        uniform = torch.tensor(state.uniforms(f"resample {state.current_pass} {state.cursor}", 1), device=logits.device)
        numerics.check_optimised(logits)
        return draw(logits, uniform, settings.resample).item()

    def propose(self, token: int) -> tuple[list[int], float | None]:
        """Return a response with `token` at the cursor and a new rollout after it, and its reward if that decides."""
        state = self.state
        response = self.roll_out(state.tokens[: state.cursor] + [token])
        if self.settings.acceptance != "higher":
            return response, None
        twice = self.settings.variant.prompt_twice
        state.incumbent = self.score(scored_text(state, self.settings.variant)) if twice else state.reward
        return response, self.score(response)

    def accept(self, token: int, response: list[int], reward: float | None) -> None:
        """Keep the proposed response if its reward is higher, or if its token was accepted before."""
        accept_or_reject(self.state, self.policy, token, response, reward, self.settings.acceptance)

    def predict(self) -> TokenPredictions:
        """Return the policy's predictions for every token from the cursor on, by a forward pass over the whole text."""
        state = self.state
        state.trajectory.charge(
            cost.policy_forward(
                self.policy.size,
                cost.one_pass(0, len(state.policy_prompt) + len(state.tokens), len(state.tokens) - state.cursor),
            )
        )
        hidden = dto_reference.first_latents(self.policy, state.split_at_cursor(state.tokens))
        with torch.no_grad():
            logits = numerics.at_least_float32(self.policy.logits(hidden))
            return TokenPredictions(hidden, numerics.confidence(logits), numerics.entropy(logits))

    def roll_out(self, prefix: list[int]) -> list[int]:
        """Return a response that begins with `prefix`; after an end token nothing is sampled."""
        state, settings = self.state, self.settings
        state.rollouts += 1
        limit = settings.max_new_tokens - len(prefix)
        if limit == 0 or (prefix and prefix[-1] in self.policy.eos_ids):
            return prefix
        text = state.policy_prompt + prefix
        uniforms = state.uniforms(f"rollout {state.rollouts - 1}", settings.max_new_tokens)
        (rollout,) = rollouts_of(self.policy)(self.policy, [text], [uniforms], settings.rollout, [limit])
        state.trajectory.charge(cost.prefill(self.policy.size, rollout.prefilled))
        state.trajectory.charge(cost.decoding(self.policy.size, rollout.decoded))
        return prefix + rollout.token_ids

    def score_token(self, token: int) -> float:
        """Return r(y_≤l|x) with `token` at the cursor, by a pass over the whole prefix."""
        state = self.state
        sequence = state.split_at_cursor(state.tokens)._replace(rollout=[token])
        count = len(state.reward_prompt) + len(sequence.prefix) + 1
        outputs = 1 if self.reward.has_score_head else len(sequence.prefix) + 1
        state.trajectory.charge(cost.scoring(self.reward.size, cost.one_pass(0, count, outputs)))
        return objective.prefix_reward(self.policy, self.reward, sequence)

    def score(self, response: list[int]) -> float:
        """Return r(y|x) of a response."""
        (value,), (spent,) = scoring.rewards(self.reward, [self.state.reward_prompt], [response])
        self.state.trajectory.charge(spent)
        return value
