"""Activations of a grown classifier against the logits of the language model it is grown from."""

from pathlib import Path

import pytest
import torch
import transformers
from scipy import optimize, stats

from nabla_reasoner.models.tokenizers import load_tokenizer
from nabla_reasoner.training import classifier_init, reward_model
from nabla_reasoner.training.data import Example, pad

LIKELIHOOD = Path(__file__).resolve().parents[2] / "assets" / "rewards" / "likelihood"
PROBLEMS = {
    "33 + 71 + 15 + 72 + 73 + 14": "33+71=104;104+15=119;119+72=191;191+73=264;264+14=278",
    "20 + 45 - 11 + 62 + 30": "20+45=65;65-11=54;54+62=116;116+30=146",
    "91 - 17 + 28 + 64 - 55": "91-17=74;74+28=102;102+64=166;166-55=111",
}


def load_likelihood():
    model = transformers.AutoModelForCausalLM.from_pretrained(LIKELIHOOD, dtype=torch.float32)
    return model, load_tokenizer(str(LIKELIHOOD))


def larger(language_model, **changes):
    config = language_model.config.to_dict() | {
        "hidden_size": 160,
        "num_hidden_layers": 7,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "intermediate_size": 416,
        "layer_types": None,
        "id2label": None,
        "label2id": None,
        "num_labels": 1,
    }
    torch.manual_seed(0)
    return transformers.Qwen2ForSequenceClassification(transformers.Qwen2Config.from_dict(config | changes))


def sequences(tokenizer, *, wrong: bool):
    """Return prompt length and token ids of worked solutions; if `wrong`, with every one-digit mistake."""
    rows = []
    for question, solution in PROBLEMS.items():
        text = f"State the final answer to the following arithmetic problem: {question} ="
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        positions = [i for i, character in enumerate(solution) if character.isdigit()] if wrong else [None]
        for position in positions:
            characters = list(solution)
            if position is not None:
                characters[position] = str((int(characters[position]) + 5) % 10)
            ids = tokenizer.encode("".join(characters), add_special_tokens=False)
            rows.append((len(prompt), [*prompt, *ids, tokenizer.eos_token_id]))
    return rows


def grown():
    language_model, tokenizer = load_likelihood()
    classifier = larger(language_model)
    right = sequences(tokenizer, wrong=False)
    alphabet = sorted({token for start, ids in [*right, *sequences(tokenizer, wrong=True)] for token in ids[start:]})
    length = min(len(ids) for _, ids in right)
    start, ids = right[0]
    classifier_init.build(
        classifier, language_model, torch.tensor([ids[:length] for _, ids in right]), alphabet, ids[start - 1]
    )
    layout = classifier_init.hidden_layout(language_model.base_model, classifier.base_model, alphabet)
    return language_model, tokenizer, classifier.eval(), layout


def states(model, number, ids):
    """Return hidden states after a layer."""
    outputs = []
    hook = model.base_model.layers[number].register_forward_hook(lambda module, given, output: outputs.append(output))
    with torch.no_grad():
        model.base_model(input_ids=torch.tensor([ids]))
    hook.remove()
    return outputs[0][0]


def logits_of_actual_tokens(language_model, start, ids):
    with torch.no_grad():
        logits = language_model(input_ids=torch.tensor([ids])).logits[0]
    return logits[:-1].gather(1, torch.tensor(ids)[1:, None])[start - 1 :, 0]


def test_copied_layers_give_language_model_hidden_states():
    language_model, tokenizer, classifier, _ = grown()
    for _, ids in sequences(tokenizer, wrong=True)[:5]:
        original, copied = states(language_model, 3, ids), states(classifier, 3, ids)[:, :128]
        torch.testing.assert_close(copied, original, rtol=0, atol=0.01 * original.abs().max().item())


@pytest.mark.slow
def test_support_is_twice_the_logit_of_the_token():
    language_model, tokenizer, classifier, layout = grown()
    for start, ids in sequences(tokenizer, wrong=True)[::7]:
        support = states(classifier, 4, ids)[start:, layout.support]
        logits = logits_of_actual_tokens(language_model, start, ids)
        fitted = stats.linregress(logits.numpy(), support.numpy())
        assert 1.4 < fitted.slope < 2.6
        assert fitted.rvalue > 0.9


@pytest.mark.slow
def test_gradient_by_codes_follows_logits_of_alternatives():
    """The gradient with respect to the codes gives the language model's logits of all alternative tokens."""
    language_model, tokenizer, classifier, layout = grown()
    start, ids = sequences(tokenizer, wrong=True)[10]
    embedded = classifier.base_model.embed_tokens(torch.tensor([ids])).detach().requires_grad_()
    outputs = []
    hook = classifier.base_model.layers[4].register_forward_hook(lambda module, given, output: outputs.append(output))
    classifier.base_model(inputs_embeds=embedded)
    hook.remove()
    with torch.no_grad():
        logits = language_model(input_ids=torch.tensor([ids])).logits[0]
    codes = slice(layout.prediction, layout.prediction + len(layout.alphabet))
    for position in range(start, len(ids)):
        (gradient,) = torch.autograd.grad(outputs[0][0, position, layout.support], embedded, retain_graph=True)
        by_codes = (
            gradient[0, position, codes]
            * classifier_init.CODE_SIZE
            * language_model.base_model.embed_tokens.weight.std()
        )
        fitted = stats.linregress(logits[position - 1, list(layout.alphabet)].numpy(), by_codes.detach().numpy())
        assert fitted.rvalue > 0.8
        assert 1.4 < fitted.slope < 2.2


@pytest.mark.slow
def test_minimum_head_finds_least_support_of_the_response():
    _, tokenizer, classifier, layout = grown()
    least, minimum = [], []
    for start, ids in [*sequences(tokenizer, wrong=False), *sequences(tokenizer, wrong=True)[::3]]:
        support = states(classifier, 4, ids)[:, layout.support]
        least.append(support[start:].min().item())
        minimum.append(states(classifier, 5, ids)[-1, layout.worst].item())
    fitted = stats.linregress(least, minimum)
    assert fitted.rvalue > 0.93
    assert 0.8 < fitted.slope < 1.4


@pytest.mark.slow
def test_wrong_digit_is_detected_before_any_training():
    _, tokenizer, classifier, layout = grown()
    right = [states(classifier, 5, ids)[-1, layout.worst].item() for _, ids in sequences(tokenizer, wrong=False)]
    wrong = [states(classifier, 5, ids)[-1, layout.worst].item() for _, ids in sequences(tokenizer, wrong=True)]
    assert stats.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong)) > 0.98


def test_only_layers_after_the_comparing_one_are_trained():
    _, _, classifier, _ = grown()
    trained = {name.split(".")[2] for name, p in classifier.named_parameters() if p.requires_grad and "layers" in name}
    assert trained == {"5", "6"}
    assert classifier.score.weight.requires_grad
    assert not classifier.base_model.embed_tokens.weight.requires_grad


@pytest.mark.parametrize("changes", [{"hidden_size": 128, "num_attention_heads": 4}, {"num_hidden_layers": 5}])
def test_too_small_classifier_is_refused(changes):
    language_model, _ = load_likelihood()
    with pytest.raises(ValueError, match=">= 6 layers and width >= 160; got"):
        classifier_init.build(larger(language_model, **changes), language_model, torch.tensor([[1, 2]]), [5, 6], 3)


@pytest.mark.slow
def test_head_alone_is_fitted_to_its_minimum():
    language_model, _ = load_likelihood()
    model = larger(language_model)
    generator = torch.Generator().manual_seed(1)
    examples = [
        Example("a", [2, 9], torch.randint(640, (5,), generator=generator).tolist(), [1.0, 1.0, 0.0, 0.0, float(i % 2)])
        for i in range(40)
    ]
    blocks = pad(examples)
    loss = reward_model.fit_head(model, blocks, 0.5)
    with torch.no_grad():
        hidden = model.base_model(input_ids=blocks[0].ids).last_hidden_state.double()
    labels = blocks[0].labels.double()

    def objective(weight):
        weight = torch.tensor(weight, requires_grad=True)
        scores = hidden @ weight
        signs = (2 * labels - 1) * scores
        answers = torch.nn.functional.softplus(-signs)[:, 2:]
        loss = answers[:, -1].mean() + 0.5 * answers.mean()
        total = loss + reward_model.HEAD_DECAY * weight.square().sum()
        total.backward()
        return total.item(), weight.grad.numpy(), loss.item()

    best = optimize.minimize(lambda w: objective(w)[:2], torch.zeros(160).double().numpy(), jac=True)
    assert loss == pytest.approx(objective(best.x)[2], abs=2e-3)
