"""The two functions that transformers calls: with a callable as `custom_generate`, and with a folder or repository."""

import inspect
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from ..decoding.nabla_reasoner import solve_states
from ..decoding.settings import NablaSettings
from ..decoding.state import Prompts, start_state
from ..models.arguments import check_chats, check_draws, check_eval, check_once, check_precision
from ..models.backbone import NO_END
from ..models.frozen import frozen
from ..models.language_models import Policy, RewardModel
from ..models.loading import refusing
from ..models.tokenizers import load_tokenizer
from ..types import Messages, Problem
from . import prompts as prompt_rows
from .generation_settings import REASONS, check_arguments, check_config, check_prepared, honored_settings

OF_CONFIG = ("max_new_tokens", "rollout_temperature", "rollout_top_p", "rollout_top_k")  # set by the GenerationConfig
SETTINGS = {name: value for name, value in NablaSettings.keywords().items() if name not in OF_CONFIG}
UNUSED = ("logits_to_keep", "use_cache", "output_attentions", "output_hidden_states")  # of the model's forward pass
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "repo_type", "revision", "token")  # of loading
# Tokenizers that were loaded for a model, with the name they were loaded by.
_TOKENIZERS: weakref.WeakKeyDictionary[
    transformers.PreTrainedModel, tuple[str, transformers.PreTrainedTokenizerBase]
] = weakref.WeakKeyDictionary()


class _Request(NamedTuple):
    """One call: what both entries have in common.

    Attributes:
        config: generation settings, complete with their defaults.
        keywords: tokenizer, reward_model, messages and seed.
        others: settings of ∇-Reasoner, and arguments for the model's forward pass.
    """

    model: transformers.PreTrainedModel
    input_ids: Tensor
    attention_mask: Tensor | None
    config: GenerationConfig
    keywords: Mapping[str, Any]
    others: Mapping[str, Any]


def generate(
    model: transformers.PreTrainedModel,
    input_ids: Tensor,
    *,
    generation_config: GenerationConfig,
    logits_processor: Sequence[object] = (),
    stopping_criteria: Sequence[object] = (),
    tokenizer: transformers.PreTrainedTokenizerBase | None = None,
    reward_model: RewardModel | None = None,
    messages: Sequence[Messages] | None = None,
    seed: int = 0,
    **others: Any,
) -> Tensor:
    """Answer prompts by ∇-Reasoner; pass it as `model.generate(..., custom_generate=generate)`.

    Args:
        model: a causal language model in eval mode, the policy.
        input_ids: prompts, [batch, prompt], padded on the left.
        generation_config, logits_processor, stopping_criteria: as `model.generate` has prepared them.
        tokenizer: the policy's; if None, that of `model.name_or_path`. Transformers drops it on the way to a callable:
            bind it with `functools.partial(generate, tokenizer=tokenizer)`.
        reward_model: a reward of the same vocabulary.
        messages: the chat of each prompt, for a reward model with a chat template of its own.
        seed: key of all random draws, together with each prompt.
        others: settings of ∇-Reasoner, e.g. max_rollouts or step_size, and what `model.generate` adds.

    Returns:
        Prompts and answers, [batch, prompt + longest answer], padded on the right.

    Raises:
        ValueError: whatever cannot be honoured, by name; a model that cannot be served; inference mode.
    """
    check_arguments(_arguments_of_model_generate())
    check_config(generation_config)  # before what was made from it
    check_prepared(logits_processor, stopping_criteria)
    mask = others.pop("attention_mask", None)  # transformers removes a mask of ones only
    mask = torch.ones_like(input_ids) if mask is None else mask
    keywords = {"tokenizer": tokenizer, "reward_model": reward_model, "messages": messages, "seed": seed}
    return _answer(_Request(model, input_ids, mask, generation_config, keywords, others))


generate.__signature__ = inspect.Signature(  # transformers hands over the keywords that stand here
    [
        *(
            parameter
            for parameter in inspect.signature(generate).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in SETTINGS.items()
        ),
        inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD),
    ]
)


def generate_from_folder(
    inputs: Tensor | None = None, *, model: transformers.PreTrainedModel, **arguments: Any
) -> Tensor:
    """Answer prompts by ∇-Reasoner, called by `custom_generate/generate.py` with the arguments of `model.generate`.

    Args:
        inputs: prompts, [batch, prompt], padded on the left; `input_ids` is read if it is None.
        arguments: those of `model.generate`, and the keywords of `generate` above.

    Raises:
        ValueError: as `generate`.
    """
    named = arguments.pop("input_ids", None)
    if (inputs is None) == (named is None):
        raise ValueError("prompts must be given once, as inputs or as input_ids. Pass **tokenizer(...) or inputs=IDS.")
    check_arguments(arguments)
    arguments = {name: value for name, value in arguments.items() if name not in (*REASONS, *HUB)}
    keywords = {name: arguments.pop(name, None) for name in ("tokenizer", "reward_model", "messages")}
    keywords["seed"] = arguments.pop("seed", 0)
    mask, settings = arguments.pop("attention_mask", None), _taken(arguments, SETTINGS)
    config, others = model._prepare_generation_config(arguments.pop("generation_config", None), **arguments)
    input_ids = named if inputs is None else inputs
    copies = config.num_return_sequences or 1
    if mask is not None:
        mask = mask.repeat_interleave(copies, 0)
    return _answer(
        _Request(model, input_ids.repeat_interleave(copies, 0), mask, config, keywords, {**others, **settings})
    )


def _taken(arguments: dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Remove arguments of these names, and return them."""
    return {name: arguments.pop(name) for name in list(arguments) if name in names}


def _arguments_of_model_generate() -> dict[str, object]:
    """Return the arguments of the running `model.generate` that could be refused.

    Transformers drops streamer, assistant_model and synced_gpus on the way to a callable: without this look at the
    calling frame they would be ignored, and the reader of a streamer would wait for ever.
    """
    code, frame = inspect.unwrap(GenerationMixin.generate).__code__, inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    local = {} if frame is None else frame.f_locals
    handed_over = ("logits_processor", "stopping_criteria")
    return {name: local.get(name) for name in REASONS if name not in handed_over}


def _answer(request: _Request) -> Tensor:
    """Answer every row; returns and raises as `generate`."""
    model, keywords = request.model, request.keywords
    reward, generation = keywords["reward_model"], honored_settings(request.config, model)
    _check_models(model, reward)
    check_draws(seed=keywords["seed"])
    if keywords["messages"] is not None:
        check_chats(keywords["messages"], "messages")
    settings = NablaSettings.from_keywords(
        **_taken(others := dict(request.others), SETTINGS),
        max_new_tokens=generation.max_new_tokens,
        **{f"rollout_{name}": value for name, value in generation.rollout._asdict().items()},
    )
    policy = _policy(model, keywords["tokenizer"], generation.eos_ids)
    rows = prompt_rows.rows(request.input_ids, request.attention_mask, generation.pad_id, policy)
    _check_forward_arguments(others, request.input_ids, rows)
    reward = reward.for_policy(policy)  # a call does not depend on those before it
    read = prompt_rows.reward_prompts(rows, keywords["messages"], generation.copies, policy.tokenizer, reward)
    with frozen(policy, reward):
        with refusing(policy.name, model):
            policy.check_forward()
        check_once(reward)
        states = [
            start_state(
                Problem(prompt_rows.problem_id(row), policy.decode(row), None, "free"),
                policy,
                reward,
                max_new_tokens=generation.max_new_tokens,
                seed=keywords["seed"],
                repeat=repeat,
                prompt_twice=settings.variant.prompt_twice,
                prompts=Prompts(row, text),
            )
            for row, text, repeat in zip(rows, read, prompt_rows.repeats(rows), strict=True)
        ]
        solutions = solve_states(settings, states, policy, reward)
    padding = (generation.pad_id, policy.tokenizer.pad_token_id, *policy.eos_ids, reward.eos_ids[0])
    pad_id = next(token for token in padding if token is not None)
    return prompt_rows.padded_answers(request.input_ids, [solution.token_ids for solution in solutions], pad_id)


def _check_models(model: transformers.PreTrainedModel, reward: object) -> None:
    """Raise ValueError unless gradients can be had of both models, and the reward is one of this package."""
    if not isinstance(reward, RewardModel):
        got = "none" if reward is None else type(reward).__name__
        raise ValueError(
            f"reward_model must be a nabla_reasoner.RewardModel; got {got}. "
            "Use RewardModel.from_pretrained(NAME, kind='classifier' or 'likelihood')."
        )
    weights = (weight for module in (model, reward.model) for weight in module.parameters())
    if torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in weights):
        raise ValueError(
            "∇-Reasoner needs gradients; torch's inference mode computes none. Call and load outside of "
            "torch.inference_mode(); torch.no_grad() does no harm."
        )
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"a policy must be a causal language model; {type(model).__name__} has an encoder. "
            "Use another architecture, e.g. Qwen or Llama."
        )
    if model.training:
        raise ValueError("the model must be in eval mode: dropout would change its logits. Call model.eval().")
    check_eval(reward)
    check_precision()


def _policy(
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase | None,
    eos_ids: list[int] | None,
) -> Policy:
    """Return the model as a policy; a tokenizer that is not given is that of the folder it was loaded from."""
    known, loaded = _TOKENIZERS.get(model, ("", None))
    if tokenizer is None and known == model.name_or_path:
        tokenizer = loaded
    if tokenizer is None:
        try:
            tokenizer = load_tokenizer(model.name_or_path)
            _TOKENIZERS[model] = (model.name_or_path, tokenizer)
        except ValueError as error:
            raise ValueError(
                f"the tokenizer of the model must be given: {error} With a callable, bind it: custom_generate="
                "functools.partial(generate, tokenizer=tokenizer); transformers drops tokenizer= on the way to one."
            ) from error
    name = model.name_or_path or type(model).__name__
    ends = None if eos_ids is None else [index for index in eos_ids if index != NO_END]
    with refusing(name, model):
        return Policy(model, tokenizer, name, eos_ids=ends)


def _check_forward_arguments(others: Mapping[str, Any], input_ids: Tensor, rows: Sequence[Sequence[int]]) -> None:
    """Raise ValueError on arguments of the model's forward pass that would change what it computes."""
    for name, value in others.items():
        if value is None or name in UNUSED:
            continue
        if name in ("past_key_values", "cache") and value.get_seq_length() == 0:
            continue  # the empty one that `model.generate` made; transformers 5.24 calls it `cache`
        if name == "position_ids" and _counts_tokens(value, input_ids.shape[1], rows):
            continue
        raise ValueError(
            f"{name} cannot be honoured by ∇-Reasoner, which reads input_ids and attention_mask only. Leave it out. "
            f"Its own settings are {', '.join(SETTINGS)}."
        )


def _counts_tokens(positions: Tensor, width: int, rows: Sequence[Sequence[int]]) -> bool:
    """Return whether the positions of every row's tokens are 0, 1, 2, …"""
    if positions.dim() != 2 or positions.shape[1] != width:
        return False
    return all(
        given[width - len(row) :] == list(range(len(row))) for given, row in zip(positions.tolist(), rows, strict=True)
    )
