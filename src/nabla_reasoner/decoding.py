"""∇-Reasoner: DTO inside the decoding loop (Alg. 1 and 3, arXiv 2603.04948), for many problems in lock-step.

One round, for every problem that is still active:

    gradient   ∂L/∂y at the current response, unless it is known: one evaluation serves the gate, every DTO step until a
               token flips, and all later positions until a revision is accepted
    select     the next position that is uncertain and has a gradient; everything before it is committed
    optimise   DTO on that position's logits, then a draw from them
    propose    if the draw differs from the current token: roll out again behind it
    accept     keep the revision if its reward is higher; otherwise the current response stays (trajectory reuse)

A problem ends when its positions or its N_max rollouts are used up; the rest of its response is then committed.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from . import cost, dto, objective, oracle, passes, rollouts, walk
from .models import Policy, RewardModel
from .passes import Gradient, HardSequence
from .problems import Problem
from .records import Solution
from .rollouts import Sampling
from .walk import VARIANTS, Walk


class NablaReasoner:
    """The paper's method; with `use_gradient=False` its null arm: same gate, same resampling, same test, no DTO.

    Args:
        max_rollouts: N_max >= 1, the first rollout included.
        num_passes: left-to-right passes until N_max is used. 1 is the paper's algorithm.
        num_iterations, step_size, min_step_ratio, ste_temperature, parameter, gradient_caching: see `dto.Descent`.
        reward_weight, nll_weight: λ and ν of Eq. 2, both >= 0.
        confidence_threshold: in (0, 1]; positions more certain than this are committed unseen.
        entropy_threshold: ε_ent in nats (variant "paper").
        grad_threshold: ε_grad >= 0; positions with a smaller gradient are committed. 0 switches the gate off.
        rollout_temperature, rollout_top_p, rollout_top_k: how rollouts are drawn.
        resample_temperature, resample_top_p, resample_top_k: how a token is drawn from its optimised logits.
        max_new_tokens: length limit of a response.
        variant: "fixed", "release" or "paper" (see `walk.Variant`).
        selection, update: replace the variant's own choice; None keeps it.
        engine: "fast", or "reference": the plain algorithm, one problem at a time, nothing shared.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        *,
        max_rollouts: int = 8,
        num_passes: int = 1,
        num_iterations: int = 20,
        step_size: float = 0.01,
        min_step_ratio: float = 0.1,
        ste_temperature: float = 1.0,
        parameter: str = "logits",
        gradient_caching: bool = True,
        reward_weight: float = 1.0,
        nll_weight: float = 0.001,
        confidence_threshold: float = 0.97,
        entropy_threshold: float = 0.25,
        grad_threshold: float = 8.0,
        rollout_temperature: float = 0.6,
        rollout_top_p: float = 0.95,
        rollout_top_k: int = 0,
        resample_temperature: float = 0.5,
        resample_top_p: float = 0.95,
        resample_top_k: int = 0,
        max_new_tokens: int = 1024,
        use_gradient: bool = True,
        variant: str = "fixed",
        selection: str | None = None,
        update: str | None = None,
        engine: str = "fast",
    ):
        for name, value in (
            ("max_rollouts (N_max)", max_rollouts),
            ("num_passes", num_passes),
            ("max_new_tokens", max_new_tokens),
        ):
            if value < 1:
                raise ValueError(f"{name} must be >= 1; got {value}.")
        if not 0 < confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold must be in (0, 1]; got {confidence_threshold}.")
        if min(entropy_threshold, grad_threshold) < 0:
            raise ValueError(f"thresholds must be >= 0; got entropy {entropy_threshold}, gradient {grad_threshold}.")
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
        if engine not in dto.ENGINES:
            raise ValueError(f"engine must be one of {', '.join(dto.ENGINES)}; got {engine!r}.")
        objective.check_weights(reward_weight, nll_weight)
        self.max_rollouts, self.num_passes, self.max_new_tokens = max_rollouts, num_passes, max_new_tokens
        self.descent = dto.Descent(
            parameter, num_iterations, step_size, min_step_ratio, ste_temperature, gradient_caching
        ).check()
        self.weights = {"reward_weight": reward_weight, "nll_weight": nll_weight}
        self.confidence_threshold, self.entropy_threshold = confidence_threshold, entropy_threshold
        self.grad_threshold, self.use_gradient = grad_threshold, use_gradient
        self.rollout_sampling = Sampling(rollout_temperature, rollout_top_p, rollout_top_k).check()
        self.resample_sampling = Sampling(resample_temperature, resample_top_p, resample_top_k).check()
        self.variant, self.engine = VARIANTS[variant], engine
        if selection is not None:
            self.variant = self.variant._replace(selection=selection)
        if update is not None:
            self.variant = self.variant._replace(update=update)
        if self.variant.selection not in ("confidence", "entropy") or self.variant.update not in dto.UPDATES:
            raise ValueError(f"selection must be confidence or entropy, update first or all; got {self.variant}.")

    def solve(
        self, problems: Sequence[Problem], policy: Policy, reward: RewardModel, seed: int = 0, repeat: int = 0
    ) -> list[Solution]:
        """Solve problems together; the result does not depend on which problems share a batch.

        Returns:
            One solution per problem, in order. `search` counts rollouts, proposals and their fate, and holds the
            anytime trajectory.
        """
        reward.check_vocabulary(policy)
        walks = [walk.start(problem, policy, reward, self.max_new_tokens) for problem in problems]
        if self.engine == "reference":
            for each in walks:
                oracle.run(self, each, policy, reward, seed, repeat)
        else:
            _LockStep(self, walks, policy, reward, seed, repeat).run()
        unscored = [each for each in walks if each.reward is None]  # for the record only: no decision read it, no cost
        values, _ = passes.rewards(reward, [w.reward_prompt for w in unscored], [w.tokens for w in unscored])
        for each, value in zip(unscored, values, strict=True):
            each.reward = value
        return [walk.solution(each, policy) for each in walks]


class _LockStep:
    """The loop over one batch of walks."""

    def __init__(
        self, method: NablaReasoner, walks: list[Walk], policy: Policy, reward: RewardModel, seed: int, repeat: int
    ):
        self.method, self.walks, self.policy, self.reward = method, walks, policy, reward
        self.seed, self.repeat = seed, repeat

    def run(self) -> None:
        """First rollouts, then rounds until every walk is done."""
        self.first_rollouts()
        while active := [each for each in self.walks if not each.done]:
            proposals = self.search(active)
            if proposals:
                self.propose(proposals)

    @contextmanager
    def shared_by(self, walks: Sequence[Walk]) -> Iterator[None]:
        """Share the seconds of a step equally among the walks that took part."""
        begin = time.perf_counter()
        yield
        seconds = (time.perf_counter() - begin) / len(walks)
        for each in walks:
            each.spent.append(cost.Cost(seconds=seconds))

    def noise(self, each: Walk, stage: str, count: int):
        return rollouts.uniforms(self.seed, each.problem.id, self.repeat, stage, count)

    def roll_out(self, walks: Sequence[Walk], kept: Sequence[list[int]]) -> list[list[int]]:
        """Complete each kept beginning of a response; one rollout per walk, nothing drawn behind an end token."""
        limits = [
            0 if ids and ids[-1] in self.policy.eos_ids else self.method.max_new_tokens - len(ids) for ids in kept
        ]
        noise = [self.noise(each, f"rollout {each.rollouts}", self.method.max_new_tokens) for each in walks]
        drawn = rollouts.sample(
            self.policy,
            [each.policy_prompt + ids for each, ids in zip(walks, kept, strict=True)],
            noise,
            self.method.rollout_sampling,
            limits,
        )
        for each, ids, rollout, limit in zip(walks, kept, drawn, limits, strict=True):
            each.rollouts += 1
            if limit > 0:
                each.spent.append(cost.prefill(self.policy.parameters, len(each.policy_prompt) + len(ids)))
                each.spent.append(cost.decoding(self.policy.parameters, len(rollout.token_ids)))
        return [ids + rollout.token_ids for ids, rollout in zip(kept, drawn, strict=True)]

    def first_rollouts(self) -> None:
        with self.shared_by(self.walks):
            for each, tokens in zip(self.walks, self.roll_out(self.walks, [[] for _ in self.walks]), strict=True):
                each.tokens = tokens
        for each in self.walks:
            walk.note_rollout(each, self.policy)
            each.done = self.method.max_rollouts == 1

    def look(self, walks: Sequence[Walk]) -> None:
        """Give every walk a view of its current response: ∂L/∂y, or the policy's prediction where none is used."""
        lacking = [each for each in walks if not self.view_holds(each)]
        if not lacking:
            return
        argmax = self.method.variant.hard_tokens == "argmax"
        sequences = []
        for each in lacking:
            each.base = each.cursor if argmax else 0
            prefix, rollout = each.tokens[: each.base], each.tokens[each.base :]
            sequences.append(HardSequence(each.policy_prompt, each.reward_prompt, prefix, rollout))
        needs_gradient = self.method.use_gradient or self.method.grad_threshold > 0
        views = passes.predict(self.policy, sequences) if argmax or not needs_gradient else None
        if views is not None:
            for each, view in zip(lacking, views, strict=True):
                each.view, each.latents, each.hard = view, view.hidden, each.tokens
                each.spent.append(view.cost)
        if argmax and needs_gradient:
            sequences = [s._replace(rollout=view.argmax) for s, view in zip(sequences, views, strict=True)]
        if needs_gradient:
            gradients = passes.evaluate(self.policy, self.reward, sequences, **self.method.weights)
            for each, sequence, gradient in zip(lacking, sequences, gradients, strict=True):
                each.hard = sequence.prefix + sequence.rollout
                each.latents = gradient.hidden if views is None else each.latents
                confident = each.view if views is not None else gradient  # the gate reads the rollout's own logits
                each.view = gradient._replace(confidence=confident.confidence, entropy=confident.entropy)
                each.spent.append(gradient.cost)
                if not argmax and each.reward is None:
                    each.reward = gradient.reward

    def view_holds(self, each: Walk) -> bool:
        """Whether the view is of the current response: what was committed since must be what was evaluated."""
        return each.view is not None and each.hard[each.base : each.cursor] == each.tokens[each.base : each.cursor]

    def search(self, walks: Sequence[Walk]) -> list[tuple[Walk, int, int]]:
        """Advance every walk to its next proposal (walk, position, new token), or to its end."""
        proposals, pending = [], list(walks)
        while pending := self.turned(pending):
            with self.shared_by(pending):
                self.look(pending)
                found = [(each, position) for each in pending if (position := self.select(each)) is not None]
                drawn = self.redraw(found) if found else []
                for (each, position), token in zip(found, drawn, strict=True):
                    each.cursor = position
                    if token == each.tokens[position]:
                        each.cursor += 1
                    else:
                        proposals.append((each, position, token))
            proposing = {id(each) for each, _, _ in proposals}
            pending = [each for each in pending if id(each) not in proposing]
        return proposals

    def turned(self, walks: Sequence[Walk]) -> list[Walk]:
        """Send walks at the end of their response back to its start; returns those that have passes left."""
        for each in walks:
            if each.cursor >= len(each.tokens):
                each.cursor, each.current_pass = 0, each.current_pass + 1
                if each.current_pass == self.method.num_passes:
                    each.current_pass, each.done = each.current_pass - 1, True
        return [each for each in walks if not each.done]

    def select(self, each: Walk) -> int | None:
        """The next position that passes both gates; None, and the cursor at the end, after the last one."""
        method = self.method
        passed = walk.uncertain(each.view, method.variant, method.confidence_threshold, method.entropy_threshold)
        candidates = [index for index in passed if index + each.base >= each.cursor]
        if candidates and method.grad_threshold > 0:
            norms = walk.gate_norms(
                self.policy, each.view, each.latents, candidates, method.variant, method.descent.ste_temperature
            )
            candidates = [i for i, norm in zip(candidates, norms, strict=True) if norm >= method.grad_threshold]
        if candidates:
            each.visited += 1
            return candidates[0] + each.base
        each.cursor = len(each.tokens)
        return None

    def redraw(self, found: Sequence[tuple[Walk, int]]) -> list[int]:
        """Optimise the logits at each found position and draw a token from them."""
        if self.method.use_gradient:
            logits = self.optimised(found)
        else:
            latents = torch.stack([each.latents[position - each.base] for each, position in found])
            logits = passes.precise(self.policy.logits(latents))
        uniform = [self.noise(each, f"resample {each.current_pass} {position}", 1)[0] for each, position in found]
        return rollouts.draw(
            logits, torch.tensor(uniform, dtype=torch.float64, device=logits.device), self.method.resample_sampling
        ).tolist()

    def optimised(self, found: Sequence[tuple[Walk, int]]) -> torch.Tensor:
        """First rows of the logits after DTO, one per found position."""
        everything = self.method.variant.update == "all"
        sequences, positions = [], []
        for each, position in found:
            inside = position - each.base
            prefix, rollout = each.hard[: each.base], each.hard[each.base :]
            sequences.append(HardSequence(each.policy_prompt, each.reward_prompt, prefix, rollout))
            positions.append(list(range(inside, len(rollout))) if everything else [inside])
        results = dto.descend(
            self.policy,
            sequences,
            [each.view for each, _ in found],
            positions,
            torch.cat([each.latents[p] for (each, _), p in zip(found, positions, strict=True)]),
            self.evaluate,
            self.method.descent,
        )
        for (each, _), result in zip(found, results, strict=True):
            each.spent.append(result.cost)
        return torch.stack([result.logits[0] for result in results])

    def evaluate(self, sequences: Sequence[HardSequence]) -> list[Gradient]:
        return passes.evaluate(self.policy, self.reward, sequences, **self.method.weights)

    def propose(self, proposals: Sequence[tuple[Walk, int, int]]) -> None:
        """Roll out behind every new token, score it against the incumbent, accept or reject."""
        walks = [each for each, _, _ in proposals]
        with self.shared_by(walks):
            responses = self.roll_out(walks, [each.tokens[:position] + [token] for each, position, token in proposals])
            self.score_incumbents(walks)
            values, costs = passes.rewards(self.reward, [each.reward_prompt for each in walks], responses)
            for each, spent in zip(walks, costs, strict=True):
                each.spent.append(spent)
        for (each, position, token), response, value in zip(proposals, responses, values, strict=True):
            walk.settle(each, self.policy, position, token, response, value)
            each.done = each.done or each.rollouts == self.method.max_rollouts

    def score_incumbents(self, walks: Sequence[Walk]) -> None:
        """What a proposal must beat. The reward of the current response is known from the gradient pass, or from its
        own acceptance; it is computed (and paid for) only where neither took place."""
        for each in walks:
            if each.incumbent is None and each.reward is not None and not self.method.variant.prompt_twice:
                each.incumbent = each.reward
        lacking = [each for each in walks if each.incumbent is None]
        if not lacking:
            return
        texts = [walk.scored_text(each, self.method.variant) for each in lacking]
        values, costs = passes.rewards(self.reward, [each.reward_prompt for each in lacking], texts)
        for each, value, spent in zip(lacking, values, costs, strict=True):
            each.incumbent = value
            each.spent.append(spent)
            if not self.method.variant.prompt_twice:
                each.reward = value
