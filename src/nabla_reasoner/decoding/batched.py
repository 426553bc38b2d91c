"""The decoding loop of ∇-Reasoner (Alg. 1 and 3, arXiv 2603.04948) for many problems in lock-step.

One round, for every problem that is still active:

    select     the next position at which the policy was uncertain; everything before it is committed
    gradient   ∂L/∂y from there on, unless it is known: one evaluation serves the second gate, every DTO step until a
               token flips, and all later positions until a revision is accepted
    optimise   DTO on that position's logits, then a draw from them
    propose    if the draw differs from the current token: roll out again behind it
    accept     keep the revision if its reward is higher; otherwise the current response stays (trajectory reuse)

A problem ends when its positions or its N_max rollouts are used up; the rest of its response is then committed.

Nothing is computed twice: decoding itself tells where the policy was uncertain and which logits DTO starts from; keys
and values of the current response and of the proposal are kept for both models (`cache`), so that rollouts, gradients
and scores begin where the text is new.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .. import cost
from ..dto import batched, equal_kl_moves, gradient_passes
from ..dto.gradients import Gradient
from ..engine import generation, numerics, scoring
from ..engine.generation import Rollout, TokenPredictions
from ..engine.sampling import draw, keyed_uniforms
from ..engine.sequences import ModelCaches, TokenSequence
from ..models.language_models import Policy, RewardModel
from .selection import gate_norms, uncertain
from .state import DecodingState, accept_or_reject, direction_key, note_rollout, scored_text


class BatchedDecoder:
    """The loop over one batch of walks, each with a slot in the caches.

    Args:
        method: the `decoding.NablaReasoner` whose settings apply.
        walks: fresh walks; they hold the outcome after `run`.
    """

    def __init__(
        self, method: Any, walks: list[DecodingState], policy: Policy, reward: RewardModel, seed: int, repeat: int
    ):
        self.method, self.walks, self.policy, self.reward = method, walks, policy, reward
        self.seed, self.repeat = seed, repeat
        self.slot = {id(each): number for number, each in enumerate(walks)}
        self.current, self.proposed = ModelCaches(len(walks)), ModelCaches(len(walks))

    def run(self) -> None:
        """First rollouts, then rounds until every walk is done."""
        self.first_rollouts()
        while active := [each for each in self.walks if not each.done]:
            proposals = self.search(active)
            if proposals:
                self.propose(proposals)

    @contextmanager
    def shared_by(self, walks: Sequence[DecodingState]) -> Iterator[None]:
        """Share the seconds of a step equally among the walks that took part."""
        begin = time.perf_counter()
        yield
        seconds = (time.perf_counter() - begin) / len(walks)
        for each in walks:
            each.spent.append(cost.Cost(seconds=seconds))

    def slots(self, walks: Sequence[DecodingState]) -> list[int]:
        return [self.slot[id(each)] for each in walks]

    def noise(self, each: DecodingState, stage: str, count: int):
        return keyed_uniforms(self.seed, each.problem.id, self.repeat, stage, count)

    def roll_out(self, walks: Sequence[DecodingState], kept: Sequence[list[int]], caches: ModelCaches) -> list[Rollout]:
        """Complete each kept beginning of a response; one rollout per walk, nothing drawn behind an end token."""
        limits = [
            0 if ids and ids[-1] in self.policy.eos_ids else self.method.max_new_tokens - len(ids) for ids in kept
        ]
        drawn = generation.sample(
            self.policy,
            [each.policy_prompt + ids for each, ids in zip(walks, kept, strict=True)],
            [self.noise(each, f"rollout {each.rollouts}", self.method.max_new_tokens) for each in walks],
            self.method.rollout_sampling,
            limits,
            store=caches.policy,
            slots=self.slots(walks),
            predictions=True,
        )
        for each, rollout in zip(walks, drawn, strict=True):
            each.rollouts += 1
            if rollout.token_ids:
                each.spent.append(cost.prefill(self.policy.parameters, rollout.prefilled))
                each.spent.append(cost.decoding(self.policy.parameters, len(rollout.token_ids)))
        return drawn

    def first_rollouts(self) -> None:
        with self.shared_by(self.walks):
            drawn = self.roll_out(self.walks, [[] for _ in self.walks], self.current)
        for each, rollout in zip(self.walks, drawn, strict=True):
            each.tokens = rollout.token_ids
            self.take(each, rollout.predictions)
            note_rollout(each, self.policy)
            each.done = self.method.max_rollouts == 1

    def take(self, each: DecodingState, states: TokenPredictions) -> None:
        """The policy's predictions along the current response, and the first gate's verdict on them."""
        method = self.method
        each.states = states
        each.uncertain = uncertain(states, method.variant, method.confidence_threshold, method.entropy_threshold)

    def search(self, walks: Sequence[DecodingState]) -> list[tuple[DecodingState, int, int]]:
        """Advance every walk to its next proposal (walk, position, new token), or to its end.

        Walks do not wait for each other: one whose draw changed nothing goes on to its next position, and its descent
        there joins those under way.
        """
        proposals, moving, optimised = [], list(walks), {}
        descents = batched.BatchedDescent(self.policy, self.evaluate_flips, self.method.descent)
        while True:
            moving = [each for each in moving if self.advance(each)]
            if not moving and not optimised:
                return proposals
            with self.shared_by([*moving, *optimised.values()]):
                self.look(moving)
                found = {self.slot[id(each)]: each for each in moving if self.passes_gate(each)}
                optimised |= found
                drawn = self.redraw(found, optimised, descents)
            moving = [each for each in moving if self.slot[id(each)] not in found]
            for slot, token in drawn.items():
                each = optimised.pop(slot)
                if token == each.tokens[each.cursor]:
                    moving.append(each)
                else:
                    proposals.append((each, each.cursor, token))
            for each in moving:
                each.cursor += 1

    def advance(self, each: DecodingState) -> bool:
        """Move the cursor to the next uncertain position, in the next pass where none is left in this one; False, and
        the walk done, when no pass is left."""
        while True:
            ahead = [position for position in each.uncertain if position >= each.cursor]
            if ahead:
                each.cursor = ahead[0]
                return True
            if each.current_pass + 1 == self.method.num_passes:
                each.done = True
                return False
            each.cursor, each.current_pass = 0, each.current_pass + 1

    def look(self, walks: Sequence[DecodingState]) -> None:
        """Give every walk ∂L/∂y from its cursor on, where its view is not of what is written there."""
        needed = self.method.use_gradient or self.method.grad_threshold > 0
        lacking = [each for each in walks if needed and not self.view_holds(each)]
        if not lacking:
            return
        argmax = self.method.variant.hard_tokens == "argmax"
        sequences = []
        for each in lacking:
            tail = each.tokens[each.cursor :]
            if argmax:
                tail = self.policy.logits(each.states.hidden[each.cursor :]).argmax(-1).tolist()
            each.base, each.hard = each.cursor, each.tokens[: each.cursor] + tail
            sequences.append(TokenSequence(each.policy_prompt, each.reward_prompt, each.hard[: each.base], tail))
        views = self.evaluate(sequences, lacking, keep=True)
        for each, view in zip(lacking, views, strict=True):
            each.view = view
            each.spent.append(view.cost)
            if not argmax and each.reward is None:
                each.reward = view.reward
            if self.method.grad_threshold > 0:
                ahead = [position for position in each.uncertain if position >= each.base]
                norms = gate_norms(
                    self.policy,
                    view,
                    each.states.hidden[each.base :],
                    [position - each.base for position in ahead],
                    self.method.variant,
                    self.method.descent.ste_temperature,
                )
                each.norms = dict(zip(ahead, norms, strict=True))

    def view_holds(self, each: DecodingState) -> bool:
        """Whether the view reaches the cursor, and what was committed since is what was evaluated."""
        if each.view is None or each.cursor < each.base:
            return False
        return each.hard[: each.cursor] == each.tokens[: each.cursor]

    def passes_gate(self, each: DecodingState) -> bool:
        """The second gate, at the cursor."""
        passed = self.method.grad_threshold == 0 or each.norms[each.cursor] >= self.method.grad_threshold
        each.visited += passed
        return passed

    def redraw(
        self, found: dict[int, DecodingState], optimised: dict[int, DecodingState], descents: batched.BatchedDescent
    ) -> dict[int, int]:
        """Let the found walks join those that are optimised; by slot, a token drawn from logits that are ready."""
        if self.method.use_gradient:
            if found:
                self.start(found, descents)
            results = descents.proceed() if descents else {}
            for slot, result in results.items():
                optimised[slot].spent.append(result.cost)
            logits = self.rows({slot: (optimised[slot], result.logits[0]) for slot, result in results.items()})
        else:
            latents = {slot: each.states.hidden[each.cursor] for slot, each in found.items()}
            rows = numerics.at_least_float32(self.policy.logits(torch.stack(list(latents.values())))) if found else []
            logits = dict(zip(latents, rows, strict=True))
        if not logits:
            return {}
        drawing = [optimised[slot] for slot in logits]
        uniform = [self.noise(each, f"resample {each.current_pass} {each.cursor}", 1)[0] for each in drawing]
        drawn = draw(
            torch.stack(list(logits.values())),
            torch.tensor(uniform, dtype=torch.float64, device=self.policy.device),
            self.method.resample_sampling,
        )
        return dict(zip(logits, drawn.tolist(), strict=True))

    def rows(self, optimised: dict[int, tuple[DecodingState, torch.Tensor]]) -> dict[int, torch.Tensor]:
        """By slot, the logits that a token is drawn from: those that DTO left, or a move of equal KL in their place."""
        if not optimised or self.method.move == "gradient":
            return {slot: row for slot, (_, row) in optimised.items()}
        walks, rows = zip(*optimised.values(), strict=True)
        latents = torch.stack([each.states.hidden[each.cursor] for each in walks])
        first, uniforms = numerics.at_least_float32(self.policy.logits(latents)), None
        if self.method.move == "random":
            uniforms = np.stack([self.noise(each, *direction_key(each, first.shape[1])) for each in walks])
        moved = equal_kl_moves.apply_move(self.method.move, first, torch.stack(rows), uniforms)
        return dict(zip(optimised, moved, strict=True))

    def start(self, found: dict[int, DecodingState], descents: batched.BatchedDescent) -> None:
        """Begin to optimise the logits at each found walk's cursor; row 0 is the one that is drawn from."""
        walks = found.values()
        sequences = [
            TokenSequence(each.policy_prompt, each.reward_prompt, each.hard[: each.cursor], each.hard[each.cursor :])
            for each in walks
        ]
        everything = self.method.variant.update == "all"
        positions = [list(range(len(s.rollout) if everything else 1)) for s in sequences]
        gumbel = self.method.descent.flip == "gumbel"
        descents.start(
            found,
            sequences,
            [each.view.behind(each.cursor - each.base) for each in walks],
            positions,
            torch.cat([each.states.hidden[each.cursor :][p] for each, p in zip(walks, positions, strict=True)]),
            [self.explanation(*pair) for pair in zip(walks, positions, strict=True)] if gumbel else None,
        )

    def evaluate_flips(self, sequences: Sequence[TokenSequence], slots: Sequence[int]) -> list[Gradient]:
        return self.evaluate(sequences, [self.walks[slot] for slot in slots])

    def explanation(self, each: DecodingState, positions: list[int]) -> np.ndarray:
        """The source of the noise that explains sampled tokens, for rows counted from the cursor."""
        size = self.policy.vocab_size
        return np.stack([self.noise(each, f"flip {each.cursor + position}", size) for position in positions])

    def evaluate(
        self, sequences: Sequence[TokenSequence], walks: Sequence[DecodingState], *, keep: bool = False
    ) -> list[Gradient]:
        slots, kept = self.slots(walks), {**self.method.weights, "terms": self.method.terms}
        return gradient_passes.evaluate(
            self.policy, self.reward, sequences, caches=self.current, slots=slots, keep=keep, **kept
        )

    def propose(self, proposals: Sequence[tuple[DecodingState, int, int]]) -> None:
        """Roll out behind every new token, score it against the current response, accept or reject."""
        walks = [each for each, _, _ in proposals]
        slots = self.slots(walks)
        with self.shared_by(walks):
            self.score_incumbents(walks)
            self.proposed.copy(self.current, slots)
            kept = [each.tokens[:position] + [token] for each, position, token in proposals]
            drawn = self.roll_out(walks, kept, self.proposed)
            responses = [ids + rollout.token_ids for ids, rollout in zip(kept, drawn, strict=True)]
            values, costs = scoring.rewards(
                self.reward, [each.reward_prompt for each in walks], responses, caches=self.proposed, slots=slots
            )
            for each, spent in zip(walks, costs, strict=True):
                each.spent.append(spent)
        accepted = []
        for (each, position, token), response, value, rollout in zip(proposals, responses, values, drawn, strict=True):
            states = each.states
            if accept_or_reject(each, self.policy, position, token, response, value, self.method.acceptance):
                accepted.append(each)
                parts = zip(states, rollout.predictions or [part[:0] for part in states], strict=True)
                self.take(each, TokenPredictions(*(torch.cat([old[: position + 1], new]) for old, new in parts)))
            each.done = each.done or each.rollouts == self.method.max_rollouts
        if accepted:
            self.current.copy(self.proposed, self.slots(accepted))

    def score_incumbents(self, walks: Sequence[DecodingState]) -> None:
        """What a proposal must beat. The reward of the current response is known from the gradient pass, or from its
        own acceptance; it is computed (and paid for) only where neither took place."""
        for each in walks:
            if each.incumbent is None and each.reward is not None and not self.method.variant.prompt_twice:
                each.incumbent = each.reward
        lacking = [each for each in walks if each.incumbent is None]
        if not lacking:
            return
        twice = self.method.variant.prompt_twice
        values, costs = scoring.rewards(
            self.reward,
            [each.reward_prompt for each in lacking],
            [scored_text(each, self.method.variant) for each in lacking],
            caches=None if twice else self.current,
            slots=self.slots(lacking),
        )
        for each, value, spent in zip(lacking, values, costs, strict=True):
            each.incumbent = value
            each.spent.append(spent)
            if not twice:
                each.reward = value
