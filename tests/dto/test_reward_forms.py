"""Reward forms: values and gradients against Hugging Face's own forward passes, autograd and finite differences."""

import itertools

import pytest
import torch
import toys

from nabla_reasoner.dto import gradient_passes, gradients, objective, optimizer
from nabla_reasoner.dto.reward_forms import OWN_TERMS, REWARD_FORMS, TERMS
from nabla_reasoner.engine.sequences import ModelCaches
from nabla_reasoner.models.language_models import LanguageModel, RewardModel

WEIGHTS = {"reward_weight": 0.7, "nll_weight": 0.3}
REWARDS = [("classifier", False), ("token_classifier", False), ("likelihood", False), ("likelihood", True)]
FORMS = REWARD_FORMS[1:]
CASES = {
    "prompts": [toys.chat("What is 12 + 34?"), toys.chat("Add 5 and 6, then take 7."), toys.chat("6")],
    "prefix_ids": [[], [9, 12], [8]],
    "rollout_ids": [[20, 31, 25, 40, 1], [50, 60, 11], [44]],
}


def make_sequences(policy, reward):
    return [objective.make_sequence(policy, reward, *case) for case in zip(*CASES.values(), strict=True)]


def rows_of(gradient, sequence):
    return gradients.onehot_gradient([gradient], [range(len(sequence.rollout))])


def onehots(policy, tokens):
    return torch.nn.functional.one_hot(torch.tensor(tokens), policy.vocab_size).double()


def plain_prefix_reward(reward, sequence, tokens):
    """r(y_≤l|x) at the last of these relaxed rollout tokens, by Hugging Face's own heads."""
    fixed = reward.embedding[torch.tensor(sequence.reward_prompt + sequence.prefix)]
    embeddings = torch.cat([fixed, tokens @ reward.embedding[: tokens.shape[1]]])[None]
    if reward.kind == "classifier":
        return reward.model(inputs_embeds=embeddings).logits[0, 0]
    if reward.kind == "token_classifier":
        return reward.model(inputs_embeds=embeddings).logits[0, -1].log_softmax(-1) @ torch.tensor([-1.0, 1.0]).double()
    total = 0.0
    for model, sign in ((reward.strong, 1.0), (reward.reference, -1.0)):
        if model is not None:
            fixed = model.embedding[torch.tensor(sequence.reward_prompt + sequence.prefix)]
            embeddings = torch.cat([fixed, tokens @ model.embedding[: tokens.shape[1]]])[None]
            log_probs = model.model(inputs_embeds=embeddings).logits[0].log_softmax(-1)[:, : tokens.shape[1]]
            committed = torch.nn.functional.one_hot(torch.tensor(sequence.prefix, dtype=torch.long), tokens.shape[1])
            response = torch.cat([committed.to(tokens), tokens])
            total = total + sign * (log_probs[len(sequence.reward_prompt) - 1 : -1] * response).sum()
    return total


def prefix_gradients(reward, sequence, tokens):
    """∂r(y_≤i)/∂y_l for all i (first axis) and l, each read on its own."""
    result = torch.zeros(len(tokens), *tokens.shape, dtype=torch.float64)
    for last in range(len(tokens)):
        leaf = tokens.clone().requires_grad_()
        (result[last],) = torch.autograd.grad(plain_prefix_reward(reward, sequence, leaf[: last + 1]), leaf)
    return result


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_forms_are_sums_of_gradients_of_single_reads(kind, reference):
    """Process: Σ over i >= l; prefix: i = l alone; values: Σ over the rollout's tokens of r(y_≤l)."""
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    batch = make_sequences(policy, reward)
    weights = {"reward_weight": 0.7, "nll_weight": 0.0}
    process, prefix = (gradient_passes.evaluate(policy, reward, batch, **weights, reward_form=form) for form in FORMS)
    for sequence, by_process, by_prefix in zip(batch, process, prefix, strict=True):
        tokens = onehots(policy, sequence.rollout)
        single = prefix_gradients(reward, sequence, tokens)
        reads = [plain_prefix_reward(reward, sequence, tokens[: last + 1]).item() for last in range(len(tokens))]
        later = torch.ones(len(tokens), len(tokens), dtype=torch.float64).tril()[..., None, None]
        torch.testing.assert_close(
            rows_of(by_process, sequence), -0.7 * (single * later[:, :, 0]).sum(0), rtol=0, atol=1e-10
        )
        torch.testing.assert_close(
            rows_of(by_prefix, sequence), -0.7 * single.diagonal().movedim(-1, 0), rtol=0, atol=1e-10
        )
        for gradient in (by_process, by_prefix):
            assert gradient.prefix_rewards.tolist() == pytest.approx(reads, abs=1e-10)
            assert gradient.loss == pytest.approx(-0.7 * sum(reads), abs=1e-10)


@pytest.mark.parametrize("kind", ["classifier", "token_classifier", "likelihood"])
def test_prefix_form_agrees_with_finite_differences_at_own_token(kind):
    policy, reward = toys.policy(), toys.reward(kind)
    sequence = make_sequences(policy, reward)[0]
    (gradient,) = gradient_passes.evaluate(
        policy, reward, [sequence], reward_weight=0.7, nll_weight=0.0, reward_form="prefix"
    )
    rows, start, step = rows_of(gradient, sequence), onehots(policy, sequence.rollout), 1e-6
    for position, token in [(0, 3), (0, 20), (2, 100), (4, 250), (3, 40)]:
        nudge = torch.zeros_like(start)
        nudge[position, token] = step
        with torch.no_grad():
            up, down = (plain_prefix_reward(reward, sequence, (start + n)[: position + 1]) for n in (nudge, -nudge))
        assert rows[position, token].item() == pytest.approx(
            -0.7 * ((up - down) / (2 * step)).item(), rel=1e-5, abs=1e-7
        )


SUBSETS = [TERMS, *((name,) for name in TERMS)]


@pytest.mark.slow
@pytest.mark.parametrize("form", REWARD_FORMS)
@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_every_choice_of_terms_equals_autograd(kind, reference, form):
    policy, reward = toys.policy("llama"), toys.reward(kind, "qwen2", reference=reference)
    batch = make_sequences(policy, reward)
    for terms in SUBSETS:
        options = {**WEIGHTS, "terms": terms, "reward_form": form}
        evaluated = gradient_passes.evaluate(policy, reward, batch, **options)
        for sequence, gradient in zip(batch, evaluated, strict=True):
            leaf = onehots(policy, sequence.rollout).requires_grad_()
            loss = objective.relaxed_objective(policy, reward, sequence, leaf, **options)
            (expected,) = torch.autograd.grad(loss + 0 * leaf.sum(), leaf)
            torch.testing.assert_close(rows_of(gradient, sequence), expected, rtol=0, atol=1e-10)
            assert gradient.loss == pytest.approx(loss.item(), abs=1e-10)
            if len(sequence.rollout) > 1:
                later = gradient.from_position(1)
                moved = sequence._replace(prefix=sequence.prefix + sequence.rollout[:1], rollout=sequence.rollout[1:])
                (alone,) = gradient_passes.evaluate(policy, reward, [moved], **options)
                torch.testing.assert_close(rows_of(later, moved), rows_of(alone, moved), rtol=0, atol=1e-10)
                assert later.loss == pytest.approx(alone.loss, abs=1e-10)


@pytest.mark.parametrize("form", REWARD_FORMS)
@pytest.mark.parametrize("kind", ["classifier", "token_classifier", "likelihood"])
def test_policys_end_tokens_are_read_as_the_rewards_own(kind, form):
    policy, reward = toys.policy(), toys.reward(kind)
    batch = make_sequences(policy, reward)
    reward.replaced_ends = frozenset({31, 44})
    evaluated = gradient_passes.evaluate(policy, reward, batch, **WEIGHTS, reward_form=form)
    for sequence, gradient in zip(batch, evaluated, strict=True):
        leaf = onehots(policy, sequence.rollout).requires_grad_()
        loss = objective.relaxed_objective(policy, reward, sequence, leaf, **WEIGHTS, reward_form=form)
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(rows_of(gradient, sequence), expected, rtol=0, atol=1e-10)
        assert gradient.loss == pytest.approx(loss.item(), abs=1e-10)
        if form != "outcome":
            read = onehots(policy, [reward.eos_ids[0] if t in (31, 44) else t for t in sequence.rollout])
            plain = [plain_prefix_reward(reward, sequence, read[: last + 1]).item() for last in range(len(read))]
            assert gradient.prefix_rewards.tolist() == pytest.approx(plain, abs=1e-10)


@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_prefix_form_is_own_term_of_process_form(kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    batch = make_sequences(policy, reward)

    def rows(form, terms=TERMS):
        evaluated = gradient_passes.evaluate(policy, reward, batch, **WEIGHTS, terms=terms, reward_form=form)
        return torch.cat([rows_of(gradient, s) for gradient, s in zip(evaluated, batch, strict=True)])

    torch.testing.assert_close(rows("prefix"), rows("process", OWN_TERMS), rtol=0, atol=1e-11)
    parts = rows("process", OWN_TERMS) + rows("process", ("postfix", "reward_postfix"))
    torch.testing.assert_close(parts, rows("process"), rtol=0, atol=1e-10)
    if kind == "likelihood":
        torch.testing.assert_close(rows("prefix"), rows("outcome", OWN_TERMS), rtol=0, atol=1e-11)
    else:
        assert (rows("prefix") - rows("outcome", OWN_TERMS)).abs().max() > 1e-3
    assert (rows("prefix") - rows("process")).abs().max() > 1e-3


def test_terms_by_form_sum_to_autograd():
    policy, reward = toys.policy(), toys.reward("classifier")
    for form in REWARD_FORMS:
        for terms, sequence in zip(
            objective.gradient_terms(policy, reward, **CASES, **WEIGHTS, reward_form=form),
            make_sequences(policy, reward),
            strict=True,
        ):
            leaf = onehots(policy, sequence.rollout).requires_grad_()
            loss = objective.relaxed_objective(policy, reward, sequence, leaf, **WEIGHTS, reward_form=form)
            (expected,) = torch.autograd.grad(loss, leaf)
            torch.testing.assert_close(terms.prefix + terms.postfix + terms.reward, expected, rtol=0, atol=1e-10)
            assert (terms.postfix.abs().max() == 0) == (form == "prefix" or len(sequence.rollout) == 1)


@pytest.fixture
def tokens_read(monkeypatch):
    """Tokens that each model reads (padding included) and those that autograd goes back through, by `id` of model."""
    forward, backward = {}, {}
    read = LanguageModel.hidden_states

    def counted(self, embeddings, **context):
        hidden = read(self, embeddings, **context)
        count = embeddings.shape[0] * embeddings.shape[1]
        forward[id(self.model)] = forward.get(id(self.model), 0) + count
        if hidden.requires_grad:
            backward[id(self.model)] = backward.get(id(self.model), 0) + count
        return hidden

    monkeypatch.setattr(LanguageModel, "hidden_states", counted)
    return forward, backward


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("form", REWARD_FORMS)
def test_cost_is_what_is_computed(tokens_read, kind, form):
    """For one sequence nothing is padded: every token that a model read must be booked, and no other."""
    policy, reward = toys.policy(), toys.reward(kind)
    forward, backward = tokens_read
    sequence = make_sequences(policy, reward)[0]
    for terms, (keep, known) in itertools.product(SUBSETS, ((False, True), (True, False))):
        caches = ModelCaches(1)
        for count in (3, 1):  # the second time most of it is cached
            part = sequence._replace(
                prefix=sequence.prefix + sequence.rollout[:-count], rollout=sequence.rollout[-count:]
            )
            ids = torch.tensor([part.policy_prompt + part.prefix + part.rollout])
            states = policy.hidden_states(policy.embedding[ids])[0, -count - 1 : -1]
            forward.clear(), backward.clear()
            (gradient,) = gradient_passes.evaluate(
                policy,
                reward,
                [part],
                **WEIGHTS,
                terms=terms,
                reward_form=form,
                caches=caches,
                slots=[0],
                keep=keep,
                known=[[states]] if known else None,
            )
            spent = gradient.cost
            assert spent.policy_forward_tokens == forward.get(id(policy.model), 0)
            assert spent.policy_backward_tokens == backward.get(id(policy.model), 0)
            assert spent.reward_forward_tokens == forward.get(id(reward.model), 0)
            assert spent.reward_backward_tokens == backward.get(id(reward.model), 0)
            passes = (forward.get(id(policy.model)), backward.get(id(policy.model)))
            passes += (forward.get(id(reward.model)), backward.get(id(reward.model)))
            assert spent.model_calls == sum(bool(count) for count in passes)


def test_prefix_form_reads_no_more_than_it_needs():
    policy = toys.policy()
    for kind in ("classifier", "likelihood"):
        reward, caches = toys.reward(kind), ModelCaches(1)
        sequence = make_sequences(policy, reward)[0]
        ids = torch.tensor([sequence.policy_prompt + sequence.rollout])
        hidden = policy.hidden_states(policy.embedding[ids])[0, -len(sequence.rollout) - 1 : -1]
        prompt, spent = len(sequence.reward_prompt), []
        for position, token in enumerate(sequence.rollout):
            visited = sequence._replace(prefix=sequence.rollout[:position], rollout=[token])
            (gradient,) = gradient_passes.evaluate(
                policy,
                reward,
                [visited],
                **WEIGHTS,
                reward_form="prefix",
                caches=caches,
                slots=[0],
                keep=True,
                known=[[hidden[position : position + 1]]],
            )
            spent.append(gradient.cost)
        assert sum(c.policy_forward_tokens + c.policy_backward_tokens for c in spent) == 0
        backward = 1 if kind == "classifier" else 0
        assert [c.reward_backward_tokens for c in spent] == [backward] * 5
        if kind == "classifier":  # every token once
            assert [c.reward_forward_tokens for c in spent] == [prompt + 1, 1, 1, 1, 1]
        else:  # the token before the cursor predicts the one at it, and is read again for that
            assert [c.reward_forward_tokens for c in spent] == [prompt, 2, 2, 2, 2]


def run(policy, reward, **settings):
    return optimizer.optimize(policy, reward, **CASES, **WEIGHTS, **settings)


SLOW_REWARDS = [
    pytest.param(*case, marks=pytest.mark.slow) for case in (("token_classifier", False), ("likelihood", True))
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reference"), [("classifier", False), ("likelihood", False), *SLOW_REWARDS])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("update", ["first", "all"])
@pytest.mark.parametrize("parameter", ["logits", pytest.param("latents", marks=pytest.mark.slow)])
def test_fast_engine_equals_reference(parameter, update, form, kind, reference):
    policy, reward = toys.policy(), toys.reward(kind, reference=reference)
    settings = {"parameter": parameter, "update": update, "reward_form": form, "step_size": 1.0, "num_iterations": 6}
    fast = run(policy, reward, **settings)
    plain = run(policy, reward, **settings, engine="reference")
    for actual, expected in zip(fast, plain, strict=True):
        torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-9)
        assert actual.token_ids == expected.token_ids
        assert actual.objective == pytest.approx(expected.objective, abs=1e-9)
    assert sum(r.cost.flops for r in fast) < sum(r.cost.flops for r in plain)
    if update == "all":  # without flips, gradients after them would not be compared
        assert any(result.token_ids != start for result, start in zip(fast, CASES["rollout_ids"], strict=True))


def test_flips_of_a_likelihoods_prefix_form_read_nothing(tokens_read):
    policy, reward = toys.policy(), toys.reward()
    still = run(policy, reward, reward_form="prefix", num_iterations=6, step_size=1e-9)
    flipped = run(policy, reward, reward_form="prefix", num_iterations=6, step_size=2.0)
    assert sum(r.gradient_evaluations for r in flipped) > sum(r.gradient_evaluations for r in still)
    for more, fewer in zip(flipped, still, strict=True):  # rows of the gradient are all that a flip costs
        assert more.cost.reward_forward_tokens == fewer.cost.reward_forward_tokens
        assert more.cost.policy_forward_tokens == fewer.cost.policy_forward_tokens
        assert fewer.cost.flops <= more.cost.flops < 2 * fewer.cost.flops


def test_cost_of_reference_engine_follows_form():
    policy = toys.policy()
    for kind, form, backward in [
        ("likelihood", "prefix", 0),
        ("classifier", "prefix", 1),
        ("likelihood", "process", 1),
    ]:
        reward = toys.reward(kind)
        spent = run(policy, reward, reward_form=form, num_iterations=1, engine="reference")[0].cost
        start = len(make_sequences(policy, reward)[0].reward_prompt)
        read = start + 1 if form == "prefix" else sum(range(start + 1, start + 6))
        assert (spent.reward_forward_tokens, spent.reward_backward_tokens) == (read, backward * read)
        assert (spent.policy_backward_tokens > 0) == (form == "process")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"reward_form": "step"}, "reward_form must be one of outcome, process, prefix; got 'step'"),
        ({"reward_form": "prefix", "terms": ["postfix", "reward_postfix"]}, "must hold one of prefix, reward_prefix"),
    ],
)
def test_setting_out_of_range_raises(setting, message):
    with pytest.raises(ValueError, match=message):
        run(toys.policy(), toys.reward(), **setting)


@pytest.mark.parametrize("num_labels", [1, 2])
def test_token_classifier_reads_the_end_token(num_labels):
    """Its score is log p(label 1) - log p(label 0), or the only logit, at the end token of the response."""
    folder = toys.token_classifier_folder("qwen2", num_labels)
    policy, reward = toys.policy(), RewardModel.from_pretrained(folder, "token_classifier", dtype="float64")
    assert reward.suffix_ids == []
    batch = make_sequences(policy, reward)
    evaluated = gradient_passes.evaluate(policy, reward, batch, **WEIGHTS)
    for sequence, gradient in zip(batch, evaluated, strict=True):
        closing = [] if sequence.rollout[-1] in reward.eos_ids else reward.eos_ids[:1]
        ids = torch.tensor([sequence.reward_prompt + sequence.prefix + sequence.rollout + closing])
        logits = reward.model(input_ids=ids).logits[0, -1]
        expected = logits[0] if num_labels == 1 else logits.log_softmax(-1)[1] - logits.log_softmax(-1)[0]
        assert gradient.reward == pytest.approx(expected.item(), abs=1e-9)


def test_token_classifier_with_three_labels_raises():
    with pytest.raises(ValueError, match="one or two labels; .* has 3"):
        RewardModel.from_pretrained(toys.token_classifier_folder("qwen2", 3), "token_classifier")
