"""Checks of what the public functions are given: problems, models, chats, token ids, random numbers."""

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..types import Problem, Solution, check_unicode
from .forward_check import is_checked
from .language_models import Policy, RewardModel
from .loading import refusing

TokenIds = Sequence[int] | Int[np.ndarray, " _"] | Int[Tensor, " _"]
Solve = Callable[..., list[Solution]]
Built = TypeVar("Built")

CHAT_REMEDY = 'Write [[{"role": "user", "content": TEXT}], ...], one chat per sequence.'
EXAMPLE = 'Problem(id="1", question=TEXT, answer=None, task="gsm8k")'


def checked(solve: Solve) -> Solve:
    """Return a method's `solve` that looks at its arguments before any model runs; problems may be any iterable.

    A reward model of None is allowed where `solve` has that default.

    Raises:
        TypeError: problems that are no `Problem`s, models of another class, seeds that are no whole numbers.
    """
    needs_reward = inspect.signature(solve).parameters["reward"].default is inspect.Parameter.empty

    @functools.wraps(solve)
    def call(
        self: object,
        problems: Iterable[Problem],
        policy: Policy,
        reward: RewardModel | None = None,
        seed: int = 0,
        repeat: int = 0,
        **others: object,
    ) -> list[Solution]:
        check_models(policy, reward, needs_reward=needs_reward)
        check_draws(seed=seed, repeat=repeat)
        return solve(self, checked_problems(problems), policy, reward, seed=seed, repeat=repeat, **others)

    return call


def checked_settings(method: type[Built]) -> type[Built]:
    """Return a method's class that looks at the kinds of its keywords before anything else (see `check_kinds`).

    Raises:
        TypeError: an unknown setting; the valid ones are named.
        ValueError: a text in place of a switch or a number, and the like.
    """
    construct = method.__init__
    parameters = inspect.signature(construct).parameters
    kinds = {name: parameter.annotation for name, parameter in parameters.items()}
    valid = [name for name, parameter in parameters.items() if parameter.kind == parameter.KEYWORD_ONLY]
    takes_others = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())

    @functools.wraps(construct)
    def init(self: Built, **keywords: object) -> None:
        if not takes_others:
            check_names(keywords, valid, type(self).__name__)
        check_kinds(keywords, kinds)
        construct(self, **keywords)

    method.__init__ = init
    return method


def check_names(given: Collection[str], valid: Collection[str], owner: str = "") -> None:
    """Raise TypeError if a keyword is not the name of a setting.

    Args:
        owner: what has the settings, for the error; empty: it is clear.
    """
    unknown = sorted(set(given) - set(valid))
    if unknown:
        of = f" of {owner}" if owner else ""
        raise TypeError(f"unknown setting {', '.join(unknown)}{of}; valid settings are {', '.join(valid)}.")


def check_kinds(settings: Mapping[str, object], annotations: Mapping[str, object]) -> None:
    """Raise ValueError naming the first setting that is not of the kind that its annotation asks for.

    Kinds are switches, finite numbers, texts, and lists of texts. A text such as "false" would count as true, a switch
    as the number 1, and a text in place of a list as its letters.
    """
    for name, value in settings.items():
        kind = annotations.get(name)
        if kind is bool:
            valid, expected = isinstance(value, bool | np.bool_), "True or False"
        elif kind in (int, float, float | int):
            is_switch = isinstance(value, bool | np.bool_)
            valid = isinstance(value, int | float | np.integer | np.floating) and not is_switch
            expected = "a number" if is_switch or not isinstance(value, numbers.Number) else "an int or a float"
            if valid:
                _check_finite(name, value)
        elif kind is str:
            valid, expected = isinstance(value, str), "text"
        elif kind == Sequence[str]:
            valid = isinstance(value, Sequence) and not isinstance(value, str)
            valid, expected = valid and all(isinstance(entry, str) for entry in value), "a list of texts"
        else:
            continue
        if not valid:
            raise ValueError(f"{name} must be {expected}; got {value!r}.")


def _check_finite(name: str, value: int | float | np.integer | np.floating) -> None:
    """Raise ValueError on NaN, infinity, or a whole number that no float can hold."""
    try:
        finite = math.isfinite(value)
    except OverflowError:
        power = math.log10(abs(int(value)))
        raise ValueError(
            f"{name} must be a number that a float can hold, below 1.8e308; got one of 10^{power:.0f}. "
            "Write a smaller one."
        ) from None
    if not finite:
        raise ValueError(f"{name} must be a finite number; got {value}. Write a number.")


def checked_problems(problems: object) -> list[Problem]:
    """Return problems as a list.

    Raises:
        TypeError: a text or one problem in place of a list, an entry of another type, an id or question that is no
            text.
        ValueError: a text that is not valid Unicode.
    """
    if isinstance(problems, (str, Problem)) or not isinstance(problems, Iterable):
        raise TypeError(f"problems must be a list of Problem; got {problems!r}. Write [{EXAMPLE}].")
    problems = list(problems)
    for problem in problems:
        if not isinstance(problem, Problem):
            raise TypeError(f"problems must be a list of Problem; it holds {problem!r}. Write [{EXAMPLE}].")
        for name in ("id", "question", "task"):
            value = getattr(problem, name)
            if not isinstance(value, str):
                raise TypeError(f"a problem's {name} must be text; got {value!r} in {problem!r}. Write {EXAMPLE}.")
            check_unicode(f"a problem's {name}", value)
    return problems


def check_models(policy: object, reward: object, *, needs_reward: bool = True) -> None:
    """Check a policy and a reward model.

    Raises:
        TypeError: no `Policy` and `RewardModel`, in that order.
        ValueError: a model in training mode, which draws at random, or torch's automatic precision.
    """
    check_precision()
    for name, model, valid in (("policy", policy, Policy), ("reward", reward, RewardModel)):
        if model is None and name == "reward" and not needs_reward:
            continue
        if not isinstance(model, valid):
            raise TypeError(
                f"{name} must be a {valid.__name__}; got {model!r}. Load it by {valid.__name__}.from_pretrained, "
                "and give the policy before the reward model."
            )
        check_eval(model)
        check_once(model)


def check_once(model: Policy | RewardModel) -> None:
    """Raise ValueError unless our way of running a model gives its own outputs; looked at once for each model.

    `from_pretrained` has done so. Models may also be given to the constructors.
    """
    for part in (model, getattr(model, "reference", None)):
        if part is not None and not is_checked(part):
            with refusing(part.name, part.model):
                part.check_forward()


def check_precision() -> None:
    """Raise ValueError under torch's automatic precision."""
    device = next((kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)), None)
    if device is not None:
        raise ValueError(
            f'torch.autocast must be off; it is on for {device}. Load the models with dtype="bfloat16" in its place.'
        )


def check_eval(model: Policy | RewardModel) -> None:
    """Raise ValueError if a model, or a reward's reference model, is in training mode."""
    for part in (model, getattr(model, "reference", None)):
        if part is not None and part.model.training:
            raise ValueError(
                f"the model of {part.name} must be in eval mode: dropout would change its logits. Call model.eval()."
            )


def check_draws(**keys: object) -> None:
    """Raise TypeError naming the first key of the random draws that is no whole number."""
    for name, value in keys.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} must be a whole number; got {value!r}.")


def check_chats(chats: object, name: str = "prompts") -> None:
    """Raise ValueError unless these are chats: each of one message or more, with a role and a content of text.

    Args:
        name: what to call them in an error.
    """
    if isinstance(chats, (str, dict)) or not isinstance(chats, Collection):  # an iterator could be read only once
        raise ValueError(f"{name} must be a list of chats; got {chats!r}. {CHAT_REMEDY}")
    for messages in chats:
        if isinstance(messages, (str, dict)) or not isinstance(messages, Sequence) or not messages:
            raise ValueError(f"{name} must hold chats, lists of messages; got {messages!r}. {CHAT_REMEDY}")
        for message in messages:
            if not isinstance(message, dict) or any(
                not isinstance(message.get(key), str) for key in ("role", "content")
            ):
                raise ValueError(
                    f"a message of {name} must have a role and a content, both text; got {message!r}. {CHAT_REMEDY}"
                )
            check_unicode(f"a message of {name}", message["content"])


def checked_ids(name: str, ids: object, policy: Policy) -> list[int]:
    """Return the tokens of one sequence as a list of Python integers.

    Args:
        name: what to call them in an error.
        ids: whole numbers in [0, vocabulary): a list, an array or a tensor of one dimension.

    Raises:
        ValueError: anything else, with the value and the tokenizer's size.
    """
    remedy = f"Write the tokens of one response as whole numbers from 0 to {policy.vocab_size - 1} ({policy.name})."
    try:
        whole = [operator.index(value) for value in ids]
    except TypeError:
        raise ValueError(f"{name} must hold a list of token ids per sequence; got {ids!r}. {remedy}") from None
    for value in whole:
        if not 0 <= value < policy.vocab_size:
            raise ValueError(f"{name} must hold tokens of the policy's vocabulary; got {value}. {remedy}")
    return whole


def check_lengths(**lists: object) -> None:
    """Raise ValueError unless all are lists with one entry for every sequence."""
    lengths = {}
    for name, entries in lists.items():
        try:
            lengths[name] = len(entries)
        except TypeError:
            raise ValueError(f"{name} must be a list, one entry per sequence; got {entries!r}. Pass a list.") from None
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"there must be one of {', '.join(lists)} for every sequence; got {counted}.")


def check_uniforms(uniforms: object, length: int, policy: Policy) -> None:
    """Raise ValueError unless an array has a number in [0, 1) for each token of a sequence and of the vocabulary."""
    expected = (length, policy.vocab_size)
    remedy = f"Draw them by numpy.random.default_rng(seed).random({expected})."
    if not isinstance(uniforms, np.ndarray | Tensor):
        raise ValueError(f"uniforms must hold an array per sequence; got {type(uniforms).__name__}. {remedy}")
    if uniforms.shape != expected:
        raise ValueError(
            f"uniforms must have shape {expected}, a number for each token of the rollout and of the vocabulary; "
            f"got {uniforms.shape}. {remedy}"
        )
    outside = uniforms[~((uniforms >= 0) & (uniforms < 1))]
    if len(outside):
        raise ValueError(f"uniforms must lie in [0, 1); got {outside[0]}. Draw them by a generator's random().")
