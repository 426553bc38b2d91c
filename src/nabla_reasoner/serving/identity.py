"""Checks of a server before a run: it answers, serves long enough texts, and runs the policy's own model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..engine.sampling import Sampling
from ..models.language_models import Policy
from . import teacher_forcing
from .client import Client, ServerError
from .completions import CompletionRequest
from .mismatch import compare, joined

# Largest difference of a greedy token's log-probability between the engines, in nats. Two engines of one model differ
# by rounding: 1e-5 in float32. Another training of the same model differs by more than a tenth somewhere.
BOUNDS = {torch.float64: 0.01, torch.float32: 0.01, torch.bfloat16: 0.3, torch.float16: 0.1}
TEST_TOKENS = 16  # greedy tokens after each test prompt


class ServedModel(NamedTuple):
    """What a server says about its model: name in requests, and largest number of tokens of a text (None: unsaid)."""

    name: str
    max_tokens: int | None


def served_model(client: Client) -> ServedModel:
    """Return the model that a server has.

    Raises:
        ValueError: no answer, no model, or several.
    """
    try:
        listed = client.get("/v1/models")
        models = [_listed_model(model) for model in listed["data"]]
    except ServerError as error:
        raise ValueError(f"a server must be reachable; {error}. Start it, or correct it.") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{client.url}/v1/models must list models as vLLM does; got {str(listed)[:100]!r}.") from error
    if len(models) != 1:
        names = ", ".join(model.name for model in models) or "none"
        raise ValueError(f"{client.url} must serve exactly one model; got {names}.")
    return models[0]


def _listed_model(entry: Any) -> ServedModel:
    """Return one model of a list; raises an AttributeError, KeyError or TypeError for what is none."""
    name, longest = entry["id"], entry.get("max_model_len")
    if not isinstance(name, str) or not name or not (longest is None or (type(longest) is int and longest > 0)):
        raise TypeError(entry)
    return ServedModel(name, longest)


def check_length(client: Client, max_tokens: int | None, needed: int) -> None:
    """Raise ValueError if prompt and response, `needed` tokens together, exceed what the server takes."""
    if max_tokens is not None and max_tokens < needed:
        raise ValueError(
            f"the server must take prompt and response, {needed} tokens together; {client.url} has max_model_len="
            f"{max_tokens}. Start it with --max-model-len {needed} or more, or lower max_new_tokens."
        )


def check_model(
    client: Client, policy: Policy, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> dict[str, Any]:
    """Compare greedy continuations of test prompts with the policy's own predictions of them.

    At every token, the server's log-probability must be the policy's own up to the bound of the policy's dtype, and
    the token must be the policy's most likely one, or as likely up to the same bound.

    Args:
        prompts: token ids of a few chat prompts.
        max_new_tokens: of the run, which the server was found to have room for; fewer are tested if it is small.

    Returns:
        What was measured, for the record.

    Raises:
        ValueError: the engines disagree, or the server does not answer; the message has both numbers.
    """
    bound = BOUNDS[policy.model.dtype]
    requests = [
        CompletionRequest(
            prompt, Sampling(0.0), 0, min(TEST_TOKENS, max_new_tokens), sorted(policy.eos_ids), log_probs=True
        )
        for prompt in prompts
    ]
    try:
        completions = client.complete(requests, policy.vocab_size)
    except ServerError as error:
        raise ValueError(f"a test prompt must be answered by the server of rollouts=vllm; {error}.") from error
    forced = teacher_forcing.predict(policy, prompts, [completion.token_ids for completion in completions])
    for prompt, completion, own in zip(prompts, completions, forced, strict=True):
        best = own.predictions.confidence.log().tolist()
        triples = zip(completion.log_probs, own.log_probs.tolist(), best, strict=True)
        for place, (theirs, ours, top) in enumerate(triples):
            if not (abs(theirs - ours) <= bound and top - ours <= bound):
                raise ValueError(
                    f"wrong model behind {client.url}: at token {place} after a test prompt of {len(prompt)} its "
                    f"most likely token {completion.token_ids[place]} has log-probability {theirs:.4f} there and "
                    f"{ours:.4f} under {policy.name}, whose own most likely token has {top:.4f}; they must agree up "
                    f"to {bound}. Serve {policy.name} in {policy.model.dtype} without quantisation."
                )
    differences = joined(compare(completion, plain) for completion, plain in zip(completions, forced, strict=True))
    return {"bound": bound, **differences.summary()}
