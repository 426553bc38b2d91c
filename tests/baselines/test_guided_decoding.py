"""Decoding with the reward model at every token: against plain passes of Hugging Face's models, one step at a time."""

import copy
import functools
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import toys
import transformers
from pass_counter import PassCounter

from nabla_reasoner import cost
from nabla_reasoner.baselines.guided_decoding import GuidedDecoding
from nabla_reasoner.baselines.judge_decoding import JudgeGreedy, LogitMixture
from nabla_reasoner.baselines.prefix_scores import PrefixScorer
from nabla_reasoner.baselines.repeated_sampling import Greedy
from nabla_reasoner.engine import scoring
from nabla_reasoner.engine.numerics import NonFiniteError
from nabla_reasoner.engine.sampling import Sampling, draw, keyed_uniforms
from nabla_reasoner.models.language_models import RewardModel
from nabla_reasoner.types import Problem

QUESTIONS = ["What is 12 + 34?", "6", "99 + 1?", "Add 5 and 6, then take 7.", "1 2 3", "4+4", "take 7"]
PROBLEMS = [Problem(f"toy/{i}", text, "1", "chain_sum") for i, text in enumerate(QUESTIONS)]
LIMIT = 8
GATE = 0.25  # some of the toy policy's positions are more certain
REWARDS = [("likelihood", False), ("likelihood", True), ("classifier", False), ("token_classifier", False)]


def hf_logits(model, text: list[int], vocab_size: int) -> torch.Tensor:
    """Next-token logits by Hugging Face's forward of the whole text."""
    return model.model(input_ids=torch.tensor([text])).logits[0, -1, :vocab_size]


def judge_logits(reward, text: list[int], vocab_size: int) -> torch.Tensor:
    total = hf_logits(reward, text, vocab_size)
    return total if reward.reference is None else total - hf_logits(reward.reference, text, vocab_size)


def beginning_score(reward, text: list[int]) -> float:
    closed = text + (reward.suffix_ids if text[-1] in reward.eos_ids else [])
    logits = reward.model(input_ids=torch.tensor([closed])).logits
    return logits.item() if reward.kind == "classifier" else (logits[0, -1, 1] - logits[0, -1, 0]).item()


def predicted_scores(reward, text: list[int], candidates: list[int]) -> list[float]:
    """First-order prediction from the first candidate by autograd through the whole text."""
    closed = [*text, candidates[0], *(reward.suffix_ids if candidates[0] in reward.eos_ids else [])]
    embeddings = reward.embedding[torch.tensor([closed])].clone().requires_grad_()
    scores = reward.model.score(reward.hidden_states(embeddings)[0, -1])
    value = scores[-1] - scores[0] if len(scores) == 2 else scores[0]
    (slope,) = torch.autograd.grad(value, embeddings)
    moves = reward.embedding[candidates] - reward.embedding[candidates[0]]
    return (value.detach() + moves @ slope[0, len(text)]).tolist()


def plain_guided(policy, reward, problem, *, scorer: str, weight: float, count: int, gate: float):
    """Tokens, uncertain positions, and the tokens that the classifier must read besides the prompt."""
    prompt, reward_prompt, tokens = policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages), []
    uncertain, read, unread = 0, 0, 0
    while len(tokens) < LIMIT and not (tokens and tokens[-1] in policy.eos_ids):
        logs = hf_logits(policy, prompt + tokens, policy.vocab_size).log_softmax(-1)
        values, candidates = logs.topk(count)
        candidates, best = candidates.tolist(), 0
        judged = [reward.eos_ids[0] if v in policy.eos_ids else v for v in candidates]  # as the reward's template ends
        if values[0].exp() <= gate:
            uncertain += 1
            text = reward_prompt + tokens
            if reward.kind == "likelihood":
                scores = hf_logits(reward, text, reward.strong.vocab_size).log_softmax(-1)
                if reward.reference is not None:
                    behind = hf_logits(reward.reference, text, reward.reference.vocab_size).log_softmax(-1)
                    scores = scores - behind[: len(scores)]
                scores = scores[judged]
            elif scorer == "exact":
                scores = torch.tensor([beginning_score(reward, [*text, v]) for v in judged]).sigmoid().log()
            else:
                scores = torch.tensor(predicted_scores(reward, text, judged)).sigmoid().log()
            asked = judged if scorer == "exact" else judged[:1]
            suffix = sum(len(reward.suffix_ids) for v in asked if v in reward.eos_ids)
            best = (values + weight * scores).argmax().item()
            read += unread + len(asked) + suffix
            unread = 0 if best < len(asked) else 1
        else:
            unread += 1
        tokens.append(candidates[best])
    return tokens, uncertain, read + len(reward_prompt) * (uncertain > 0)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["exact", "gradient"])
@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_guided_tokens_and_cost_equal_plain_passes(kind, reference, scorer):
    policy, reward = toys.policy("llama"), toys.reward(kind, "qwen2", reference=reference)
    settings = {"reward_weight": 1.5, "num_candidates": 5, "confidence_threshold": GATE, "scorer": scorer}
    solutions = GuidedDecoding(**settings, max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward)
    certain = changed = 0
    greedy = Greedy(max_new_tokens=LIMIT).solve(PROBLEMS, policy)
    for problem, solution, plain in zip(PROBLEMS, solutions, greedy, strict=True):
        tokens, uncertain, read = plain_guided(policy, reward, problem, scorer=scorer, weight=1.5, count=5, gate=GATE)
        assert solution.token_ids == tokens
        assert solution.search["uncertain"] == uncertain
        certain += len(tokens) - uncertain
        changed += tokens != plain.token_ids
        prompt, reward_prompt = len(policy.prompt_ids(problem.messages)), len(reward.prompt_ids(problem.messages))
        assert (solution.cost.decode_tokens, solution.cost.policy_prefill_tokens) == (len(tokens), prompt)
        expected = read if reward.has_score_head else reward_prompt + len(tokens) - 1
        assert solution.cost.reward_forward_tokens == expected
        backward = solution.cost.reward_backward_tokens
        assert (backward >= uncertain > 0) if reward.has_score_head and scorer == "gradient" else backward == 0
        assert solution.cost.gradient_calls == (2 * uncertain if backward else 0)
        (value,), _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages)], [tokens])
        assert solution.reward == pytest.approx(value, abs=1e-9)
    assert certain > 5
    assert changed > 3


@pytest.mark.slow
@pytest.mark.parametrize("method", [LogitMixture, JudgeGreedy])
@pytest.mark.parametrize("reference", [False, True])
def test_mixture_and_judge_tokens_equal_plain_passes(method, reference):
    policy, reward = toys.policy("llama"), toys.reward("likelihood", "qwen2", reference=reference)
    more = {} if method is JudgeGreedy else {"judge_weight": 0.7, "temperature": 0.8, "top_k": 20}
    solutions = method(**more, max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward, seed=5, repeat=1)
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        prompt, reward_prompt, tokens = policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages), []
        noise = torch.tensor(keyed_uniforms(5, problem.id, 1, "rollout 0", LIMIT))
        while len(tokens) < LIMIT and not (tokens and tokens[-1] in policy.eos_ids):
            if method is JudgeGreedy:
                tokens.append(hf_logits(reward, reward_prompt + tokens, reward.strong.vocab_size).argmax().item())
                continue
            logits = hf_logits(policy, prompt + tokens, policy.vocab_size)
            logits = logits + 0.7 * judge_logits(reward, reward_prompt + tokens, policy.vocab_size)
            tokens.append(draw(logits[None], noise[len(tokens)][None], Sampling(0.8, 1.0, 20)).item())
        assert solution.token_ids == tokens
        if method is LogitMixture:
            assert solution.cost.reward_forward_tokens == len(reward_prompt) + len(tokens) - 1
        else:
            assert solution.cost.policy_prefill_tokens == 0
            reads = cost.one_pass(0, len(reward_prompt)) + cost.decoded(len(reward_prompt), len(tokens))
            assert solution.cost.flops == cost.forward_flops(reward.strong.size, reads)
        assert solution.cost.decode_tokens == len(tokens)


def reference_with_more_tokens(tmp_path: Path) -> str:
    """Write a reference model whose tokenizer has two tokens more than that of the toys."""
    model = transformers.AutoModelForCausalLM.from_pretrained(toys.model_folder("qwen2", seed=8))
    tokenizer = toys.policy().tokenizer
    tokenizer.add_tokens(["<first more>", "<second more>"])
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.nn.init.normal_(model.get_input_embeddings().weight.data[-2:], std=1.0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.slow
def test_reference_may_know_more_tokens_than_the_reward(tmp_path):
    """FAULTS K7: the log-probabilities of 280 and 282 tokens were added before the candidates were picked."""
    policy, folder = toys.policy("llama"), toys.model_folder("qwen2", seed=7)
    other = reference_with_more_tokens(tmp_path)
    reward = RewardModel.from_pretrained(folder, "likelihood", dtype="float64", reference=other)
    assert (reward.strong.vocab_size, reward.reference.vocab_size) == (280, 282)
    settings = {"reward_weight": 1.5, "num_candidates": 5, "confidence_threshold": GATE}
    guided = GuidedDecoding(**settings, max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward)
    for problem, solution in zip(PROBLEMS, guided, strict=True):
        tokens, uncertain, _ = plain_guided(policy, reward, problem, scorer="exact", weight=1.5, count=5, gate=GATE)
        assert (solution.token_ids, solution.search["uncertain"]) == (tokens, uncertain)
    for method in (LogitMixture(max_new_tokens=LIMIT), JudgeGreedy(max_new_tokens=LIMIT)):
        assert all(solution.token_ids for solution in method.solve(PROBLEMS[:2], policy, reward))


ENDS = {"equal": "<|end|>", "another": "<|pad|>"}


@functools.cache
def suffix_folder(kind: str) -> str:
    """Write a toy reward whose chat template closes a turn as ChatML does, with a line break after its end token."""
    toy = toys.token_classifier_folder("llama") if kind == "token_classifier" else None
    folder = Path(tempfile.mkdtemp(prefix="nabla-toy-")) / kind
    shutil.copytree(toy or toys.model_folder("llama", classifier=kind == "classifier", seed=7), folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("<|end|>", "<|end|>\n"))
    return str(folder)


def ending_pair(end: str, kind: str, bias: float = 0.0, *, reference: bool = False):
    """A policy that likes to end its responses, with the token `end`, and a reward whose chats end with <|end|>."""
    policy = toys.policy()
    policy.eos_ids = policy.tokenizer.convert_tokens_to_ids([end])
    head = torch.nn.Linear(*policy.head.weight.T.shape, dtype=policy.head.weight.dtype).requires_grad_(False)
    head.weight.copy_(policy.head.weight)
    head.bias.zero_()[policy.eos_ids] = bias
    policy.head = head
    policy.model.set_output_embeddings(head)
    other = toys.model_folder("qwen2", seed=8) if reference else None
    return policy, RewardModel.from_pretrained(suffix_folder(kind), kind, dtype="float64", reference=other)


def finished_chat(reward, question: str, answer: str) -> list[int]:
    chat = [*toys.chat(question), {"role": "assistant", "content": answer}]
    return list(reward.tokenizer.apply_chat_template(chat, return_dict=False))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("scorer", ["exact", "gradient"])
def test_score_of_end_token_is_that_of_the_finished_chat(scorer, end):
    """The gradient is that of the end token itself: the template writes a line break after it."""
    policy, reward = ending_pair(ENDS[end], "classifier")
    answer = policy.tokenizer.encode("12+34=46", add_special_tokens=False)
    prompt = reward.prompt_ids(toys.chat(QUESTIONS[0]))
    chat = finished_chat(reward, QUESTIONS[0], "12+34=46")
    place = len(prompt) + len(answer)
    assert chat[:place] == prompt + answer
    assert len(chat) == place + 2
    embeddings = reward.model.get_input_embeddings().weight[torch.tensor([chat])].clone().requires_grad_()
    value = reward.model(inputs_embeds=embeddings).logits[0, 0]
    (slope,) = torch.autograd.grad(value, embeddings)
    others = [30, 40, 50]
    weight = reward.model.get_input_embeddings().weight
    expected = [value.item()]
    for token in others:
        if scorer == "gradient":
            expected.append((value.detach() + (weight[token] - weight[chat[place]]) @ slope[0, place]).item())
        else:
            expected.append(reward.model(input_ids=torch.tensor([[*chat[:place], token]])).logits.item())
    scores = PrefixScorer(reward.for_policy(policy), [prompt], scorer).scores(
        [0], [answer], [[policy.eos_ids[0], *others]]
    )
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("scorer", ["exact", "gradient"])
@pytest.mark.parametrize(("kind", "reference"), REWARDS)
def test_guided_end_tokens_are_scored_as_finished_chats(kind, reference, scorer, end):
    policy, reward = ending_pair(ENDS[end], kind, 8.0, reference=reference)
    settings = {"reward_weight": 1.5, "num_candidates": 5, "confidence_threshold": 1.0, "scorer": scorer}
    solutions = GuidedDecoding(**settings, max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward)
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        tokens, uncertain, read = plain_guided(policy, reward, problem, scorer=scorer, weight=1.5, count=5, gate=1.0)
        assert (solution.token_ids, solution.search["uncertain"]) == (tokens, uncertain)
        assert solution.search["finished"] == (tokens[-1] in policy.eos_ids)
        if reward.has_score_head:
            assert solution.cost.reward_forward_tokens == read
    assert any(solution.search["finished"] for solution in solutions)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_end_token_of_mixture_gets_the_logit_of_the_judges_end(end, reference):
    policy, reward = ending_pair(ENDS[end], "likelihood", 8.0, reference=reference)
    method = LogitMixture(judge_weight=0.7, temperature=0.8, max_new_tokens=LIMIT)
    solutions = method.solve(PROBLEMS, policy, reward, seed=5)
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        prompt, reward_prompt, tokens = policy.prompt_ids(problem.messages), reward.prompt_ids(problem.messages), []
        noise = torch.tensor(keyed_uniforms(5, problem.id, 0, "rollout 0", LIMIT))
        while len(tokens) < LIMIT and not (tokens and tokens[-1] in policy.eos_ids):
            judged = judge_logits(reward, reward_prompt + tokens, policy.vocab_size)
            judged[policy.eos_ids] = judged[reward.tokenizer.convert_tokens_to_ids("<|end|>")].item()
            logits = hf_logits(policy, prompt + tokens, policy.vocab_size) + 0.7 * judged
            tokens.append(draw(logits[None], noise[len(tokens)][None], Sampling(0.8)).item())
        assert solution.token_ids == tokens
    assert any(solution.search["finished"] for solution in solutions)


def test_judge_finishes_with_its_own_end_token():
    policy, reward = ending_pair("<|pad|>", "likelihood")
    reward.strong.head = torch.nn.Linear(*reward.strong.head.weight.T.shape, dtype=torch.float64)
    reward.strong.head.requires_grad_(False).weight.copy_(reward.embedding)
    reward.strong.head.bias.zero_()[1] = 4.0
    reward.model.set_output_embeddings(reward.strong.head)
    solutions = JudgeGreedy(max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward)
    ended = []
    for problem, solution in zip(PROBLEMS, solutions, strict=True):
        prompt, tokens = reward.prompt_ids(problem.messages), []
        while len(tokens) < LIMIT and tokens[-1:] != reward.eos_ids:
            tokens.append(hf_logits(reward, prompt + tokens, policy.vocab_size).argmax().item())
        assert solution.token_ids == tokens
        ended.append(tokens[-1:] == reward.eos_ids)
        (sample,), (entry,) = solution.search["samples"], solution.search["trajectory"]
        assert [part["finished"] for part in (solution.search, sample, entry)] == ended[-1:] * 3
        text = prompt + tokens + ([] if ended[-1] else reward.eos_ids)
        logs = reward.model(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
        expected = sum(logs[place - 1, text[place]].item() for place in range(len(prompt), len(text)))
        assert solution.reward == pytest.approx(expected, abs=1e-9)
    assert set(ended) == {True, False}
    assert policy.eos_ids == [0]


def test_judge_whose_end_token_the_policy_lacks_ends_with_one_of_the_policy():
    policy, judge = toys.policy(), toys.reward("likelihood")
    tokenizer, model = copy.deepcopy(judge.tokenizer), copy.deepcopy(judge.model)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|im_end|>")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    end, matrix = tokenizer.eos_token_id, model.get_output_embeddings().weight
    head = torch.nn.Linear(matrix.shape[1], matrix.shape[0], dtype=torch.float64).requires_grad_(False)
    head.weight.copy_(matrix)
    head.bias.zero_()[end] = 12.0
    model.set_output_embeddings(head)
    model.generation_config.eos_token_id = end
    reward = RewardModel(model, tokenizer, "judge", "likelihood")
    assert reward.eos_ids[0] == end >= policy.vocab_size
    for solution in JudgeGreedy(max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward):
        assert solution.token_ids == policy.eos_ids[:1]
        assert solution.search["finished"]


@pytest.mark.parametrize("opened", ["policy", "judge"])
def test_judge_writes_the_think_block_that_its_own_prompt_opened(opened: str):
    policy, reward = toys.policy(), toys.reward("likelihood")
    models = {"policy": policy, "judge": reward.strong}
    models[opened].texts = models[opened].texts._replace(open_block="<think>\n")
    for solution in JudgeGreedy(max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward):
        block = "<think>\n" if opened == "judge" else ""
        assert solution.response == block + policy.decode(solution.token_ids)


def test_judge_writes_tokens_of_policy_only():
    policy, reward = toys.policy(), toys.reward()
    whole = JudgeGreedy(max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward)
    policy.vocab_size = 150
    solutions = JudgeGreedy(max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward)
    assert max(token for solution in whole for token in solution.token_ids) >= 150
    assert max(token for solution in solutions for token in solution.token_ids) < 150
    assert reward.strong.vocab_size > 150


METHODS = {
    "judge": JudgeGreedy(max_new_tokens=LIMIT),
    "mixture": LogitMixture(temperature=1.0, max_new_tokens=LIMIT),
    "guided": GuidedDecoding(confidence_threshold=GATE, max_new_tokens=LIMIT),
    "guided by gradient": GuidedDecoding(confidence_threshold=GATE, scorer="gradient", max_new_tokens=LIMIT),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_depend_on_batch(name, kind):
    policy, reward = toys.policy(), toys.reward(kind)
    if kind == "classifier" and not name.startswith("guided"):
        with pytest.raises(ValueError, match=r"needs a likelihood reward.*'classifier'"):
            METHODS[name].solve(PROBLEMS, policy, reward)
        return
    together = METHODS[name].solve(PROBLEMS[::-1], policy, reward, seed=3)[::-1]
    for problem, solution in list(zip(PROBLEMS, together, strict=True))[:4]:
        (alone,) = METHODS[name].solve([problem], policy, reward, seed=3)
        assert solution.token_ids == alone.token_ids
        assert solution.cost._replace(seconds=0, peak_bytes=0) == alone.cost._replace(seconds=0, peak_bytes=0)
        assert solution.search["trajectory"][-1]["flops"] == solution.cost.flops


@pytest.mark.parametrize("kind", ["likelihood", "classifier"])
@pytest.mark.parametrize("name", METHODS)
def test_cost_equals_tokens_read(name, kind, monkeypatch):
    if kind == "classifier" and not name.startswith("guided"):
        return
    policy, reward = toys.policy(), toys.reward(kind)
    counter = PassCounter(monkeypatch, policy, reward)
    solutions = METHODS[name].solve(PROBLEMS, policy, reward)
    spent = cost.total(solution.cost for solution in solutions)
    read = counter.read["reward"] + counter.stepped["reward"]
    prompts = [reward.prompt_ids(problem.messages) for problem in PROBLEMS]
    _, recorded = scoring.rewards(reward, prompts, [solution.token_ids for solution in solutions])
    charged = spent.reward_forward_tokens + cost.total(recorded).reward_forward_tokens  # the last score is free
    if name == "judge":
        assert spent.decode_tokens == counter.drawn
        assert counter.read["policy"] + counter.stepped["policy"] == 0
    else:
        assert charged == read
        assert spent.policy_prefill_tokens == counter.read["policy"]
        assert spent.decode_tokens - len(PROBLEMS) == counter.stepped["policy"]  # nothing reads a last token


def test_weight_zero_is_greedy():
    policy, reward = toys.policy(), toys.reward("classifier")
    greedy = Greedy(max_new_tokens=LIMIT).solve(PROBLEMS, policy)
    zero = GuidedDecoding(reward_weight=0, max_new_tokens=LIMIT).solve(PROBLEMS, policy, reward)
    assert [a.token_ids for a in zero] == [a.token_ids for a in greedy]
    mixture = LogitMixture(judge_weight=0, max_new_tokens=LIMIT).solve(PROBLEMS, policy, toys.reward())
    assert [a.token_ids for a in mixture] == [a.token_ids for a in greedy]


def test_weight_whose_mixture_overflows_fails_by_name():
    method = LogitMixture(judge_weight=1e39, max_new_tokens=LIMIT)
    with pytest.raises(NonFiniteError, match=r"logits with judge_weight=1e\+39 must be finite.* Lower it"):
        method.solve(PROBLEMS, toys.policy(dtype="float32"), toys.reward(dtype="float32"))


@pytest.mark.parametrize(
    ("kind", "scorer", "weight"),
    [("likelihood", "exact", 1e300), ("classifier", "exact", 1.7e308), ("classifier", "gradient", 1.7e308)],
)
def test_weight_whose_scores_overflow_fails_by_name(kind, scorer, weight):
    """Every candidate would have the score -inf, so that the greedy tokens would be the answer."""
    method = GuidedDecoding(reward_weight=weight, scorer=scorer, confidence_threshold=1.0, max_new_tokens=LIMIT)
    with pytest.raises(NonFiniteError, match=r"scores with reward_weight=1.*e\+3.* must be finite.* Lower it"):
        method.solve(PROBLEMS, toys.policy(dtype="float32"), toys.reward(kind, dtype="float32"))


def test_score_predicted_by_a_slope_that_is_not_finite_fails_by_name():
    reward = toys.reward("classifier")
    with torch.no_grad():
        reward.model.score.weight[0, 0] = torch.inf
    method = GuidedDecoding(scorer="gradient", confidence_threshold=1.0, max_new_tokens=LIMIT)
    with pytest.raises(NonFiniteError, match="the score of .* at a candidate after .* tokens must be finite"):
        method.solve(PROBLEMS, toys.policy(), reward)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GuidedDecoding(reward_weight=-1), r"reward_weight \(w\) must be >= 0; got -1"),
        (lambda: GuidedDecoding(num_candidates=1), r"num_candidates \(k\) must be >= 2.*got 1"),
        (lambda: GuidedDecoding(confidence_threshold=0), r"confidence_threshold must be in \(0, 1\]; got 0"),
        (lambda: GuidedDecoding(scorer="guess"), "scorer must be one of exact, gradient; got 'guess'"),
        (lambda: GuidedDecoding(max_new_tokens=0), "max_new_tokens must be >= 1; got 0"),
        (lambda: LogitMixture(judge_weight=-0.5), r"judge_weight \(β\) must be >= 0; got -0.5"),
        (lambda: LogitMixture(temperature=-1), "temperature must be >= 0"),
        (lambda: JudgeGreedy(max_new_tokens=0), "max_new_tokens must be >= 1; got 0"),
    ],
)
def test_setting_out_of_range_raises(build, message):
    with pytest.raises(ValueError, match=message):
        build()
