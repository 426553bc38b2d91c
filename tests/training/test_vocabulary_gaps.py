"""A tokenizer with a gap in its ids: the vocabulary reaches to the largest id, and not to the number of tokens."""

import json

import pytest
import small_models
import transformers
from tokenizers import Tokenizer

from nabla_reasoner.models.random_init import build_model
from nabla_reasoner.training import verifier
from nabla_reasoner.training.data import Example, pad
from nabla_reasoner.training.loop import Schedule
from nabla_reasoner.training.recipes import policy_improvement

SHAPE = {"model_type": "llama", **small_models.SHAPE, "tie_word_embeddings": True}


def tokenizer_with_gap() -> transformers.PreTrainedTokenizerFast:
    """Return the toys' tokenizer with the last of its 280 tokens at 299."""
    whole = small_models.tokenizer()
    settings = json.loads(whole.backend_tokenizer.to_str())
    vocabulary = settings["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] = 299
    backend = Tokenizer.from_str(json.dumps(settings))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=whole.pad_token,
        eos_token=whole.eos_token,
        chat_template=whole.chat_template,
    )


def test_random_model_has_a_row_for_every_id():
    tokenizer = tokenizer_with_gap()
    assert len(tokenizer) == 280
    assert len(build_model(SHAPE, tokenizer).get_input_embeddings().weight) == 300


@pytest.mark.parametrize("kind", ["score", "ratio"])
def test_verifier_learns_from_the_last_id(kind):
    tokenizer = tokenizer_with_gap()
    model = build_model(SHAPE, tokenizer, classifier=kind == "score", seed=0)
    shared = {"checkpoints": {}, "tokenizer": tokenizer}
    if kind == "score":
        module = verifier.VerifierTraining(model, Schedule(1, 1e-3), language_weight=1.0, **shared)
    else:
        module = verifier.RatioTraining(model, Schedule(1, 1e-3), scale=0.5, **shared)
    assert module.vocab_size == 300
    module.loss(pad([Example("a", [2, 9], [7, 299, 1], [1.0, 1.0, 1.0])])).backward()
    assert model.get_input_embeddings().weight.grad[299].any()


def test_policy_with_a_row_for_each_token_but_not_for_each_id_is_refused(tmp_path):
    tokenizer = tokenizer_with_gap()
    tokenizer.save_pretrained(tmp_path)
    whole, short = (build_model({**SHAPE, "vocab_size": rows}, tokenizer) for rows in (300, 290))
    policy_improvement.check_tokenizer(whole, str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="must have the tokenizer it is trained with"):
        policy_improvement.check_tokenizer(short, str(tmp_path), str(tmp_path))
