"""Loading of whole models that are trained further or that an adapter is merged into."""

import torch
import transformers

from .loading import (
    OUTPUT_MATRICES,
    SCORE_HEADS,
    check_finite,
    check_head,
    check_keys,
    check_request,
    read_weights,
    saved_classes,
)

CLASSIFIERS = {
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
}
TASK_TYPES = ("CAUSAL_LM", *CLASSIFIERS)  # of peft


def load_whole(
    name: str, task_type: str = "CAUSAL_LM", *, dtype: str = "float32", num_labels: int = 1
) -> transformers.PreTrainedModel:
    """Load a model's weights on the CPU, in eval mode, with the checks of `loading.load`; they can be trained.

    A classifier may come from a language model's folder: a score head that the files do not have is zeros. No other
    weight may be missing, which transformers would fill with random numbers.

    Args:
        name: folder or hub name; OWNER/NAME@COMMIT.
        task_type: one of `TASK_TYPES`: a causal LM, or a classifier of texts or tokens.
        dtype: precision, one of `loading.DTYPES`.
        num_labels: outputs of a classifier's score head.

    Raises:
        ValueError: missing folder; weights that are damaged, missing, left over or not finite; a LoRA adapter beside
            them; code of its own; a classifier's folder as a causal LM; an architecture whose classifier has a head of
            another name; unknown dtype.
    """
    check_request(name, "cpu", dtype)
    auto = CLASSIFIERS.get(task_type, transformers.AutoModelForCausalLM)
    labels = {"num_labels": num_labels} if task_type in CLASSIFIERS else {}
    model, report = read_weights(auto, name, dtype, **labels)
    if task_type in CLASSIFIERS:
        if not hasattr(model, "score"):
            raise ValueError(
                f"a classifier must have a score head named `score`, which rewards read; {type(model).__name__}, made "
                f"from {name}, has another. Use another architecture, e.g. Qwen or Llama."
            )
        new_head = {key for key in report["missing_keys"] if SCORE_HEADS.match(key)}
        report["missing_keys"] = set(report["missing_keys"]) - new_head
        for key in new_head:
            torch.nn.init.zeros_(model.get_parameter(key))
        check_keys(name, report, OUTPUT_MATRICES)
    else:
        check_language_model(name, model.config)
        check_keys(name, report, SCORE_HEADS)
    check_finite(name, model)
    return model.eval()


def check_language_model(name: str, config: transformers.PreTrainedConfig) -> None:
    """Raise ValueError on the configuration of a classifier, whose layers were not trained to predict tokens."""
    check_head(name, transformers.AutoModelForCausalLM, next(iter(saved_classes(name, config)), ""))
