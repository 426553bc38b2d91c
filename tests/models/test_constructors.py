"""Models and end tokens that users give to the constructors: served, or refused by one line that says what to do."""

import copy
import functools
import os

import pytest
import small_models
import toys
import transformers
from command_processes import shared

from nabla_reasoner.models.backbone import check_parts, checked_ends
from nabla_reasoner.models.language_models import Policy, RewardModel

# In a process of their own, as the tests' own type checks would refuse most of these first.
CASES = {
    'Policy(BASE, TOKENIZER, "x")': "x (LlamaModel) has none. Use a model of transformers.AutoModelForCausalLM",
    'Policy(SCORER, TOKENIZER, "x")': "x (LlamaForSequenceClassification) has none. Use a model of",
    'RewardModel(SCORER, TOKENIZER, "x", "likelihood")': "x (LlamaForSequenceClassification) has none. Use a model of",
    'RewardModel(LM, TOKENIZER, "x", "classifier")': "a score head named `score`; x (LlamaForCausalLM) has none",
    'RewardModel(LM, TOKENIZER, "x", "token_classifier")': "must have a score head named `score`; x",
    'Policy("x", TOKENIZER, "x")': "the model of x must be a model of transformers; got 'x'. Use from_pretrained",
    'RewardModel("x", TOKENIZER, "x", "classifier")': "the model of x must be a model of transformers; got 'x'",
    'Policy(LM, None, "x")': "the tokenizer of x must be a tokenizer of transformers; got None. Use from_pretrained",
    'RewardModel(LM, None, "x", "likelihood")': "the tokenizer of x must be a tokenizer of transformers; got None",
    'RewardModel(LM, TOKENIZER, "x", "likelihood", LM)': "reference must be a Policy; got LlamaForCausalLM(",
    'Policy.from_pretrained(FOLDER, device="meta")': "device must hold the weights of",
    'RewardModel.from_pretrained(FOLDER, "likelihood", device="meta")': "device must hold the weights of",
    'Policy(LM, TOKENIZER, "x", eos_ids=["x"])': "eos_ids of x must be whole numbers from 0 to 279, .* got 'x'",
    'Policy(LM, TOKENIZER, "x", eos_ids=[99999])': "eos_ids of x must be whole numbers from 0 to 279",
    'Policy(LM, TOKENIZER, "x", eos_ids=5)': "eos_ids of x must be a list of token ids; got 5. Write a list",
}
CODE = """
import transformers
from nabla_reasoner.models.language_models import Policy, RewardModel
FOLDER, CLASSIFIER = {folders!r}
TOKENIZER = transformers.AutoTokenizer.from_pretrained(FOLDER)
BASE = transformers.AutoModel.from_pretrained(FOLDER)
LM = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
SCORER = transformers.AutoModelForSequenceClassification.from_pretrained(CLASSIFIER)
for case in {cases!r}:
    try:
        print(repr(eval(case)))
    except ValueError as error:
        print(repr(str(error)))
"""


@pytest.mark.slow
def test_parts_that_are_no_models_or_tokenizers_are_refused_in_one_line():
    """FAULTS K22: they gave errors such as 'NoneType' object has no attribute 'weight'."""
    folders = toys.model_folder("llama"), toys.model_folder("llama", classifier=True)
    code = CODE.format(folders=folders, cases=list(CASES))
    done = shared().run_code(code, os.environ)
    assert not done.returncode, done.stderr
    for case, line in zip(CASES, done.stdout.splitlines(), strict=True):
        assert "\\n" not in line
        for part in CASES[case].split(".* "):
            assert part in eval(line), case


def causal_model(**settings):
    return transformers.AutoModelForCausalLM.from_pretrained(small_models.folder("llama", **settings)).eval()


def test_models_without_their_head_are_refused():
    tokenizer = small_models.tokenizer()
    base = transformers.AutoModel.from_pretrained(toys.model_folder("llama"))
    for build in (lambda: Policy(base, tokenizer, "x"), lambda: RewardModel(base, tokenizer, "x", "likelihood")):
        with pytest.raises(ValueError, match=r"must have an output matrix; x \(LlamaModel\) has none"):
            build()


@pytest.mark.parametrize(("model", "tokenizer"), [("x", None), (None, None), (object(), None)])
def test_names_in_place_of_models_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="the model of m must be a model of transformers; got"):
        check_parts(model, tokenizer, "m")


@pytest.mark.parametrize("ids", [["x"], [99999], [280], [-1], [1, 1.5], [True], [None]])
def test_end_tokens_that_no_token_equals_are_refused(ids):
    """FAULTS K21: they never matched, so that every response ran to its limit."""
    with pytest.raises(ValueError, match="eos_ids must be whole numbers from 0 to 279, .*; got .* Correct it"):
        checked_ends(ids, 280, "eos_ids")


@pytest.mark.parametrize(
    ("ids", "classifier"),
    [*((ids, False) for ids in (9999, [1, "x"], "x", [1, -2], 1.5)), *((ids, True) for ids in (9999, [1, -2]))],
)
def test_end_tokens_of_settings_that_no_token_equals_are_refused(ids, classifier):
    model = copy.deepcopy(toys.reward("classifier").model if classifier else causal_model())
    settings = model.config if classifier else model.generation_config
    settings.eos_token_id = ids
    build = functools.partial(RewardModel, kind="classifier") if classifier else Policy
    with pytest.raises(ValueError, match=r"eos_token_id in the \w+ of m must be whole numbers from 0 to \d+"):
        build(model, small_models.tokenizer(), "m")


def test_end_tokens_among_the_padding_rows_and_minus_one_are_served():
    """Some families name an end token that their tokenizer does not know; transformers' -1 names none."""
    model, tokenizer = causal_model(vocab_size=320), small_models.tokenizer()
    model.generation_config.eos_token_id = [300, -1]
    assert Policy(model, tokenizer, "m").eos_ids == [tokenizer.eos_token_id, 300]
    assert Policy(model, tokenizer, "m", eos_ids=[319, 7]).eos_ids == [319, 7]
    assert Policy(model, tokenizer, "m", eos_ids=[]).eos_ids == []
