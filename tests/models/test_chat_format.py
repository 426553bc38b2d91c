"""The text a reward model reads is its own chat template's finished chat, whatever end token a policy draws."""

import re
from pathlib import Path

import numpy as np
import pytest
import small_models
import torch
import toys
import transformers

from nabla_reasoner import BestOfN, Problem
from nabla_reasoner.dto import gradient_passes, gradients, objective, optimize
from nabla_reasoner.engine import generation, scoring
from nabla_reasoner.engine.sampling import Sampling
from nabla_reasoner.engine.sequences import ModelCaches
from nabla_reasoner.models.chat_format import read_format
from nabla_reasoner.models.language_models import Policy, RewardModel
from nabla_reasoner.models.tokenizers import build_tokenizer

TURN = "<|{{ message['role'] }}|>{{ message['content'] }}"
THINK = "{% if message['role'] == 'assistant' %}<|assistant|>(think)(/think){{ message['content'] }}{% else %}" + TURN
OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
EVERY = "{% for message in messages %}"
TEMPLATES = {
    "plain": EVERY + TURN + "<|end|>{% endfor %}" + OPEN,
    "line break": EVERY + TURN + "<|end|>\n{% endfor %}" + OPEN,
    "end of text after the turn": EVERY + TURN + "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}<|pad|>{% endif %}",
    "other end of turn": EVERY + TURN + "<|pad|>\n{% endfor %}" + OPEN,
    "think block in the finished chat": EVERY + THINK + "{% endif %}<|end|>\n{% endfor %}" + OPEN,
    "think block in the prompt": EVERY + TURN + "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>(think)(/think){% endif %}",
}
CHAT = toys.chat("What is 12 + 34?")
ANSWER = "12+34=46"


def folder(template: str, *, classifier: bool = False, eos: str = "<|end|>", seed: int = 0) -> str:
    path = small_models.folder("llama", classifier=classifier, seed=seed)
    (path / "chat_template.jinja").write_text(template)
    tokenizer = small_models.tokenizer()
    small_models.edit(path / "tokenizer_config.json", eos_token=eos)
    index = tokenizer.convert_tokens_to_ids(eos)
    for file in ("config.json", "generation_config.json"):
        if (path / file).exists():
            small_models.edit(path / file, eos_token_id=index)
    return str(path)


def whole_chat(model) -> list[int]:
    chat = [*CHAT, {"role": "assistant", "content": ANSWER}]
    return list(model.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False))


def read_texts(reward, responses, monkeypatch) -> list[list[int]]:
    """Return the texts that the reward model reads for these responses."""
    texts, plain = [], scoring.read

    def noting(model, batch, *args, **kwargs):
        texts.extend(batch)
        return plain(model, batch, *args, **kwargs)

    monkeypatch.setattr(scoring, "read", noting)
    for response in responses:
        scoring.rewards(reward, [reward.prompt_ids(CHAT)], [response])
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("eos", ["<|end|>", "<|pad|>"])
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_text_read_equals_finished_chat_of_template(template, kind, eos, monkeypatch):
    reward = RewardModel.from_pretrained(folder(TEMPLATES[template], classifier=kind == "classifier", eos=eos), kind)
    answer = reward.tokenizer.encode(ANSWER, add_special_tokens=False)
    ends = [reward.tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<|pad|>")]
    policy = Policy.from_pretrained(toys.model_folder("llama"))
    texts = []
    for end in ends:
        policy.eos_ids = [end]
        texts += read_texts(reward.for_policy(policy), [answer, [*answer, end]], monkeypatch)
    expected = whole_chat(reward)
    if kind == "likelihood":  # what follows the end of turn changes no token's log-likelihood
        expected = expected[: len(expected) - len(reward.format.closing) + 1]
    elif expected[-1] == reward.model.config.pad_token_id:  # a classifier's own forward reads the token before it
        expected = expected[:-1]
    assert texts == [expected] * 4


def test_finishing_is_not_punished_by_another_end_token():
    """FAULTS K9: cut, ended by the policy's token and ended by the reward's token are one text."""
    policy = Policy.from_pretrained(folder(TEMPLATES["other end of turn"], eos="<|pad|>"))
    reward = RewardModel.from_pretrained(folder(TEMPLATES["plain"], seed=1), "likelihood").for_policy(policy)
    answer = policy.tokenizer.encode(ANSWER, add_special_tokens=False)
    prompts = [reward.prompt_ids(CHAT)] * 3
    values, _ = scoring.rewards(reward, prompts, [answer, [*answer, policy.eos_ids[0]], [*answer, reward.eos_ids[0]]])
    assert values[0] == pytest.approx(values[1]) == pytest.approx(values[2])
    partial, _ = scoring.rewards(reward, prompts[1:], [[*answer, end] for end in (0, 1)], close=False)
    assert partial == pytest.approx(values[1:])


@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_gradient_with_replaced_end_token_equals_autograd(kind):
    policy = Policy.from_pretrained(folder(TEMPLATES["other end of turn"], eos="<|pad|>"), dtype="float64")
    path = folder(TEMPLATES["line break"], classifier=kind == "classifier", seed=1)
    reward = RewardModel.from_pretrained(path, kind, dtype="float64").for_policy(policy)
    answer = policy.tokenizer.encode(ANSWER, add_special_tokens=False)
    weights = {"reward_weight": 0.7, "nll_weight": 0.3}
    for rollout in (answer, [*answer, policy.eos_ids[0]], [*answer[:2], policy.eos_ids[0], *answer[2:]]):
        sequence = objective.make_sequence(policy, reward, CHAT, answer[:2], rollout)
        for caches in (None, ModelCaches(1)):
            (gradient,) = gradient_passes.evaluate(policy, reward, [sequence], caches=caches, slots=[0], **weights)
        rows = gradients.onehot_gradient([gradient], [range(len(rollout))])
        onehots = torch.nn.functional.one_hot(torch.tensor(rollout), policy.vocab_size).double().requires_grad_()
        loss = objective.relaxed_objective(policy, reward, sequence, onehots, **weights)
        (expected,) = torch.autograd.grad(loss, onehots)
        assert gradient.loss == pytest.approx(loss.item(), abs=1e-9)
        torch.testing.assert_close(rows, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_engines_agree_with_replaced_end_token():
    policy = Policy.from_pretrained(folder(TEMPLATES["other end of turn"], eos="<|pad|>"), dtype="float64")
    path = folder(TEMPLATES["think block in the finished chat"], classifier=True, seed=1)
    reward = RewardModel.from_pretrained(path, dtype="float64")
    answer = policy.tokenizer.encode(ANSWER, add_special_tokens=False)
    results = [
        optimize(
            policy,
            reward,
            prompts=[CHAT],
            prefix_ids=[[]],
            rollout_ids=[[*answer, policy.eos_ids[0]]],
            step_size=0.5,
            num_iterations=8,
            update="all",
            engine=engine,
        )[0]
        for engine in ("fast", "reference")
    ]
    assert results[0].token_ids == results[1].token_ids
    assert results[0].objective == pytest.approx(results[1].objective, abs=1e-8)


def test_policy_also_stops_at_the_end_of_turn_of_its_template():
    """Qwen2.5-7B: its tokenizer's end is <|endoftext|>, its template's <|im_end|>."""
    policy = Policy.from_pretrained(folder(TEMPLATES["plain"], eos="<|pad|>"))
    assert policy.eos_ids == [1, 0]
    with torch.no_grad():
        policy.head.weight.zero_()  # every token is equally likely, so that a uniform number names its token
    noise = np.full(10, 100.5 / policy.vocab_size)
    noise[3] = 1.5 / policy.vocab_size
    (rollout,) = generation.sample(policy, [[50, 60]], [noise], Sampling(1.0), [10])
    assert rollout.finished
    assert rollout.token_ids == [100, 100, 100, 1]


def test_template_that_hides_the_answer_or_leaves_it_open_refused():
    hidden = EVERY + "<|{{ message['role'] }}|><|end|>{% endfor %}" + OPEN
    with pytest.raises(ValueError, match="a prompt must hold the user's question"):
        RewardModel.from_pretrained(folder(hidden), "likelihood")
    shown = "{% if message['role'] == 'user' %}{{ message['content'] }}{% endif %}"
    with pytest.raises(ValueError, match="must write the assistant's answer"):
        RewardModel.from_pretrained(folder(hidden.replace("<|end|>", shown + "<|end|>")), "likelihood")
    with pytest.raises(ValueError, match="must close an answer with a special end token"):
        RewardModel.from_pretrained(folder(EVERY + TURN + "{% endfor %}" + OPEN, classifier=True))
    users = EVERY + "{% if message['role'] != 'user' %}{{ raise_exception('users only') }}{% endif %}" + TURN
    with pytest.raises(ValueError, match="users only"):
        RewardModel.from_pretrained(folder(users + "<|end|>{% endfor %}" + OPEN), "likelihood")
    Policy.from_pretrained(folder(users + "<|end|>{% endfor %}" + OPEN))  # never reads a finished chat


def test_template_that_refuses_one_question_is_named():
    picky = "{% if 'seven' in message['content'] %}{{ raise_exception('no 7') }}{% endif %}"
    policy = Policy.from_pretrained(folder(EVERY + picky + TURN + "<|end|>{% endfor %}" + OPEN))
    with pytest.raises(ValueError, match=r"the chat template refuses .*seven 7.*: no 7\. Correct chat_template"):
        policy.prompt_ids([{"role": "user", "content": "seven 7"}])


ROLE = "<|{{ message['role'] }}|>"
LAST = "{% if loop.last and message['role'] == 'user' %}"
WHOLE = "{{ message['content'] }}"
DEPENDENT = {
    "words before an unanswered question": EVERY + ROLE + LAST + "Solve: {% endif %}" + WHOLE + "<|end|>{% endfor %}",
    "number of messages in front": "({{ messages|length }})" + EVERY + TURN + "<|end|>{% endfor %}",
    "question cut once it is answered": EVERY + ROLE + LAST + WHOLE + "{% else %}"
    "{{ message['content'][:40] }}{% endif %}<|end|>{% endfor %}",
    "white space cut once it is answered": EVERY + ROLE + LAST + WHOLE + "{% else %}"
    "{{ message['content']|trim }}{% endif %}<|end|>{% endfor %}",
}


@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("template", DEPENDENT)
def test_template_whose_question_changes_once_answered_refused(template, kind):
    """FAULTS K9: the reward model would read the question that the layout was found with, not the one asked."""
    path = folder(DEPENDENT[template] + OPEN, classifier=kind == "classifier")
    with pytest.raises(ValueError, match="before and after its answer") as caught:
        RewardModel.from_pretrained(path, kind)
    message = str(caught.value)
    assert path in message
    assert "\n" not in message
    assert "Correct chat_template" in message
    if kind == "likelihood":  # its folder also serves as a policy, which reads no finished chat
        assert Policy.from_pretrained(path).eos_ids == [1]


LATER = {
    "number of messages behind": EVERY + TURN + "<|end|>{% endfor %}({{ messages|length }})",
    "Mistral's system message": "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}" + EVERY + "<|{{ message['role'] }}|>"
    "{% if loop.last and system is defined %}{{ system }}\n\n{% endif %}{{ message['content'] }}<|end|>{% endfor %}",
}


@pytest.mark.parametrize("template", LATER)
def test_template_that_fails_for_longer_chats_only_serves_single_questions(template):
    reward = RewardModel.from_pretrained(folder(LATER[template] + OPEN), "likelihood")
    whole = reward.tokenizer.apply_chat_template([*CHAT, {"role": "assistant", "content": ANSWER}], tokenize=False)
    assert reward.tokenizer.decode(reward.prompt_ids(CHAT)) == whole.partition(ANSWER)[0]
    longer = {
        "number of messages behind": [*CHAT, {"role": "assistant", "content": "5"}, *CHAT],
        "Mistral's system message": [{"role": "system", "content": "Be brief."}, *CHAT],
    }
    with pytest.raises(
        ValueError, match=f"{re.escape(reward.name)} cannot read this chat.*before and after its answer"
    ):
        reward.prompt_ids(longer[template])


SPACED = {
    "DeepSeek": EVERY + "{% if message['role'] == 'user' %}User: {{ message['content'] }}\n\n{% else %}Assistant: "
    "{{ message['content'] }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
    "line break": EVERY + "<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>{% endfor %}" + OPEN,
}


@pytest.mark.parametrize("answer", ["5", "So 5"])
@pytest.mark.parametrize("template", SPACED)
def test_white_space_that_begins_a_response_is_read_once(template, answer):
    """The opened prompt ends before it, so that the policy writes it; tokens of digits do not join it, words may."""
    tokenizer = build_tokenizer(toys.TEXTS, 280)
    tokenizer.chat_template = SPACED[template]
    model = transformers.AutoModelForCausalLM.from_pretrained(small_models.folder("llama")).eval()
    policy, reward = Policy(model, tokenizer, "p"), RewardModel(model, tokenizer, "r", "likelihood")
    finished = [*CHAT, {"role": "assistant", "content": answer}]
    whole = list(tokenizer.apply_chat_template(finished, tokenize=True, return_dict=False))
    prompt = policy.prompt_ids(CHAT)
    assert whole[: len(prompt)] == prompt
    served = reward.for_policy(policy)
    (value,), _ = scoring.rewards(served, [served.prompt_ids(CHAT)], [whole[len(prompt) :]])
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    expected = sum(log_probs[place - 1, whole[place]].item() for place in range(len(prompt), len(whole)))
    assert value == pytest.approx(expected, abs=1e-3)
    plain = build_tokenizer(toys.TEXTS, 280)
    assert served.for_policy(Policy(model, plain, "plain")).format == reward.format, "a copy serves others as the first"


def test_template_for_one_question_only_accepted():
    single = "{% if messages|length > 2 or messages[0]['role'] == 'system' %}{{ raise_exception('one') }}{% endif %}"
    reward = RewardModel.from_pretrained(folder(single + TEMPLATES["think block in the finished chat"]), "likelihood")
    for question in ("What is 17 * 25?", " 1+1 ", "Solve: 2+3"):
        chat = toys.chat(question)
        whole = reward.tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": ANSWER}], tokenize=False)
        assert reward.tokenizer.decode(reward.prompt_ids(chat)) == whole.partition(ANSWER)[0]


DAY = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- endif %}Today is {{ date_string }}."
)
DATED = {
    "day": (DAY, "Today is 26 Jul 2024."),
    "joined": ("{{ 'Today is ' + strftime_now('%B %-d, %Y, %%d') }}", "Today is July 26, 2024, %d"),
    "in a macro": (
        "{% macro day() %}{{ strftime_now(format='%Y-%m-%d')|upper }}{% endmacro %}\n\n  {{ day() }}",
        "\n  2024-07-26",
    ),
    "behind white space": ("\n  {% if strftime_now is defined %}{{ strftime_now('%A') }}{% endif %}", "\nFriday"),
}


@pytest.mark.parametrize("kind", ["policy", "likelihood"])
@pytest.mark.parametrize("template", DATED)
def test_prompt_does_not_depend_on_the_day(template, kind):
    """FAULTS K11: Llama 3.2's template writes today's date, so that resumed records would join two prompts."""
    written, expected = DATED[template]
    path = folder(written + TEMPLATES["plain"])
    model = Policy.from_pretrained(path) if kind == "policy" else RewardModel.from_pretrained(path, kind)
    text = model.tokenizer.decode(model.prompt_ids(CHAT))
    assert text == expected + "<|user|>" + CHAT[0]["content"] + "<|end|><|assistant|>"
    assert model.tokenizer.chat_template == written + TEMPLATES["plain"]  # saved as it was


def test_shipped_models_read_what_they_always_read():
    root = Path(__file__).resolve().parents[2] / "assets"
    for path in sorted([*root.glob("policies/*/tokenizer.json"), *root.glob("rewards/*/tokenizer.json")]):
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path.parent)
        assert read_format(tokenizer) == (0, [], [tokenizer.eos_token_id])


def test_best_of_n_ranks_by_the_text_of_the_template():
    policy = Policy.from_pretrained(folder(TEMPLATES["other end of turn"], eos="<|pad|>"))
    reward = RewardModel.from_pretrained(folder(TEMPLATES["think block in the finished chat"], classifier=True, seed=1))
    problem = Problem("1", CHAT[0]["content"], None, "free")
    (solution,) = BestOfN(num_samples=4, max_new_tokens=12).solve([problem], policy, reward)
    ids = [i for i in solution.token_ids if i not in policy.eos_ids]
    before = whole_chat(reward)[: -len(reward.format.closing)]
    before = before[: len(before) - len(reward.tokenizer.encode(ANSWER, add_special_tokens=False))]
    with torch.no_grad():
        expected = reward.model(input_ids=torch.tensor([before + ids + reward.format.closing])).logits.item()
    assert solution.reward == pytest.approx(expected, abs=1e-4)
    assert np.isfinite(expected)


def test_reward_of_a_policy_does_not_depend_on_policies_served_before():
    """The end token of one policy is an ordinary token of another, which the reward model must read as it is."""
    policy = Policy.from_pretrained(toys.model_folder("llama"))
    answer = policy.tokenizer.encode(ANSWER, add_special_tokens=False)
    other = Policy(policy.model, policy.tokenizer, "ends with a word", eos_ids=[answer[1]])
    reward = RewardModel.from_pretrained(folder(TEMPLATES["plain"], seed=1), "likelihood")
    prompt, rollout = policy.prompt_ids(CHAT), [*answer, policy.eos_ids[0]]
    weights = {"reward_weight": 1.0, "nll_weight": 0.1, "num_iterations": 2}

    def answers(served: Policy) -> list[float]:
        (result,) = optimize(served, reward, prompts=[CHAT], prefix_ids=[[]], rollout_ids=[rollout], **weights)
        (value,), _ = scoring.rewards(reward.for_policy(served), [prompt], [rollout])
        return [value, *result.objective]

    first, with_other = answers(policy), answers(other)
    assert first != with_other
    assert answers(policy) == first
    assert answers(other) == with_other


THINKING = (
    EVERY
    + "{% set text = message['content'].split('</think>')[-1] %}{% if message['role'] == 'assistant' %}"
    + "<|assistant|><think></think>{{ text }}{% else %}<|user|>{{ text }}{% endif %}<|end|>{% endfor %}"
    + OPEN
)


def test_policy_that_may_think_is_refused_by_a_reward_that_writes_a_block_before_its_own():
    """The reward would read "<think></think><think>2 and 3</think>5" where its template writes one block."""
    reward = RewardModel.from_pretrained(folder(THINKING), "likelihood")
    with pytest.raises(ValueError, match="a policy that may think needs a reward whose chat template writes no"):
        reward.for_policy(Policy.from_pretrained(folder(THINKING)))
    closed = THINKING.replace("<|assistant|>{% endif %}", "<|assistant|><think></think>{% endif %}")
    for template in (TEMPLATES["plain"], closed):  # knows no block; its prompt closes an empty one
        reward.for_policy(Policy.from_pretrained(folder(template)))


@pytest.mark.parametrize("block", ["<|user|>final:", "[THINK][/THINK]", "(think)(/think)"])
def test_policy_that_writes_its_own_opening_is_refused_by_a_reward_that_writes_it_too(block):
    """FAULTS K9: harmony's "<|channel|>final<|message|>" stood twice before an answer."""
    opened = TEMPLATES["think block in the finished chat"].replace("(think)(/think)", block)
    reward = RewardModel.from_pretrained(folder(opened), "likelihood")
    with pytest.raises(ValueError, match="writes .* itself, so that the reward|a policy that may think"):
        reward.for_policy(Policy.from_pretrained(folder(opened)))
    closed = opened.replace("<|assistant|>{% endif %}", f"<|assistant|>{block}{{% endif %}}")
    reward.for_policy(Policy.from_pretrained(folder(closed)))


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")])
def test_reward_that_drops_a_think_block_of_other_marks_is_refused(marks):
    template = DROPPING.replace("<think>", marks[0]).replace("</think>", marks[1])
    reward = RewardModel.from_pretrained(folder(template), "likelihood")
    with pytest.raises(ValueError, match="keeps the think block"):
        reward.for_policy(Policy.from_pretrained(folder(template)))


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_classifier_reads_the_score_where_its_own_forward_does(name):
    """FAULTS K4: of a text that ends in the padding token, that is the token before."""
    path = small_models.folder(name, classifier=True)
    pad, end = (small_models.tokenizer().convert_tokens_to_ids(token) for token in ("<|pad|>", "<|end|>"))
    small_models.edit(path / "config.json", pad_token_id=end)
    with pytest.raises(ValueError, match="must not end in its padding token"):
        RewardModel.from_pretrained(str(path))
    small_models.edit(path / "config.json", pad_token_id=pad)
    (path / "chat_template.jinja").write_text(TEMPLATES["end of text after the turn"])
    reward = RewardModel.from_pretrained(str(path))
    answer = reward.tokenizer.encode(ANSWER, add_special_tokens=False)
    (score,), _ = scoring.rewards(reward, [reward.prompt_ids(CHAT)], [answer])
    expected = reward.model(input_ids=torch.tensor([whole_chat(reward)])).logits.item()
    assert score == pytest.approx(expected, abs=1e-5)


DROPPING = (  # the rules of DeepSeek-R1's distilled models
    EVERY
    + "{% set text = message['content'] %}{% if message['role'] == 'assistant' and '</think>' in text %}"
    + "{% set text = text.split('</think>')[-1] %}{% endif %}<|{{ message['role'] }}|>{{ text }}<|end|>{% endfor %}"
    + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
def test_policy_that_may_think_is_refused_by_a_reward_that_drops_the_thinking(kind, monkeypatch):
    """It would read "2+3 = 5</think>5" where its template writes "5"."""
    reward = RewardModel.from_pretrained(folder(DROPPING, classifier=kind == "classifier"), kind)
    silent = DROPPING.replace("<think>\\n", "").replace("<think>", "")  # its prompt opens no block
    assert "<think>" not in silent
    for template in (DROPPING, silent, THINKING):
        with pytest.raises(ValueError, match="a policy that may think needs .* keeps the think block") as caught:
            reward.for_policy(Policy.from_pretrained(folder(template)))
        assert reward.name in str(caught.value)
    served = reward.for_policy(Policy.from_pretrained(folder(TEMPLATES["plain"])))  # knows no block
    answer = reward.tokenizer.encode(ANSWER, add_special_tokens=False)
    assert read_texts(served, [answer], monkeypatch) == [whole_chat(reward)]


def test_reward_that_writes_an_answer_as_it_is_serves_a_policy_that_thinks(monkeypatch):
    policy = Policy.from_pretrained(folder(DROPPING))
    reward = RewardModel.from_pretrained(folder(TEMPLATES["plain"]), "likelihood").for_policy(policy)
    for thought in ("2+3 = 5</think>5", "<think>\n2+3\n</think>\n\n5"):
        answer = reward.tokenizer.encode(thought, add_special_tokens=False)
        chat = [*CHAT, {"role": "assistant", "content": thought}]
        (read,) = read_texts(reward, [answer], monkeypatch)
        assert reward.tokenizer.decode(read) == reward.tokenizer.apply_chat_template(chat, tokenize=False)


@pytest.mark.parametrize("kind", ["classifier", "likelihood"])
@pytest.mark.parametrize("closing", [" <|end|>", "\n<|end|>", "\n\n### End<|end|>"])
def test_reward_whose_template_writes_text_before_its_end_token_refused(closing, kind):
    """A log-likelihood would leave out what stands before the end token, such as the space of Llama 2."""
    path = folder(EVERY + TURN + closing + "{% endfor %}" + OPEN, classifier=kind == "classifier")
    with pytest.raises(
        ValueError, match=f"a {kind} reward's chat template must close an answer with a special"
    ) as caught:
        RewardModel.from_pretrained(path, kind)
    assert path in str(caught.value)
    assert repr(closing) in str(caught.value)
    if kind == "likelihood":  # its folder also serves as a policy, which reads no finished chat
        assert Policy.from_pretrained(path).eos_ids == [1]


def test_likelihood_whose_template_closes_no_answer_reads_the_end_of_the_tokenizer(monkeypatch):
    reward = RewardModel.from_pretrained(folder(EVERY + TURN + "{% endfor %}" + OPEN), "likelihood")
    answer = reward.tokenizer.encode(ANSWER, add_special_tokens=False)
    assert read_texts(reward, [answer], monkeypatch) == [[*whole_chat(reward), reward.eos_ids[0]]]


def test_error_of_python_in_a_template_names_the_chat():
    faulty = TEMPLATES["plain"].replace(EVERY, EVERY + "{% if message['content'] == 'sum' %}{{ 1 + 'a' }}{% endif %}")
    reward = RewardModel.from_pretrained(folder(faulty), "likelihood")
    with pytest.raises(ValueError, match=r"the chat template refuses .*'sum'.* Correct chat_template"):
        reward.prompt_ids([{"role": "user", "content": "sum"}])
