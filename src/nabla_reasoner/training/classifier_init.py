"""A classifier grown from a causal LM: every token of a response is compared with what was expected there.

A verifier needs the language model's prediction of each token. It exists only in the last layer, one position earlier,
and where it exists the token's own identity has been overwritten by the next prediction. Training alone did not find a
way around that, so the way is built and what is behind it is trained. Layers of the grown model:

    copied     the language model's, frozen; beside them, in dimensions of its own, every token has a code of itself
    comparing  built, frozen: the prediction is brought from the position before, and the code picks the logit in it
               that the token had (its support)
    finding    built, trained: one head looks at the response's token with the least support
    further    without effect at first, trained
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

CODE_SIZE = 0.05  # of a code, in units of the embedding's root mean square: too small to disturb the copied layers
PREDICTION_SIZE = 5.0  # of what is brought from the position before, in units of the hidden state it is added to
SHARPNESS = 7.0  # of the heads that look one position back: the next best position has about e^-6 of the weight
CODE_GAIN, LOGIT_GAIN, SUPPORT_GAIN = 8.0, 1 / 32, 8.0  # support is 2 times the logit; all parts are of order one
QUERY = 8.0  # a constant query, of which keys take what they want


class HiddenLayout(NamedTuple):
    """Dimensions of the grown model's hidden state.

    Attributes:
        prediction: how many belong to the language model; the first ones.
        alphabet: token ids that have a code, in the order of their dimensions, which follow.
        marker: dimension of the code of the prompt's last token.
        support: of the logit that the language model gave the token.
        answering: of a constant that is there from the prompt's last token on.
        worst: of the least support so far.
    """

    prediction: int
    alphabet: Sequence[int]
    marker: int
    support: int
    answering: int
    worst: int


class ActivationScales(NamedTuple):
    """Root mean squares.

    Attributes:
        code: of a code's one dimension.
        hidden: of the language model's last hidden state, before its final norm.
        prediction: of the same after it.
        total: of the grown model's hidden state behind the comparing layer's attention.
        ratio: what a norm's weights are scaled by where it is taken over more dimensions, most of them empty.
    """

    code: float
    hidden: float
    prediction: float
    total: float
    ratio: float


@torch.no_grad()
def grow(
    classifier: torch.nn.Module,
    language_model: torch.nn.Module,
    ids: Int[Tensor, "batch seq"],
    alphabet: Sequence[int],
    marker: int,
) -> None:
    """Start a classifier from a shallower, narrower causal LM, as the module's docstring says.

    Args:
        classifier: Qwen2-shaped (attention with biases), at least two layers deeper and one head wider.
        language_model: Qwen2-shaped, heads of the same size, tied embeddings.
        ids: a few sequences, to measure hidden states with.
        alphabet: token ids that right responses are made of; any other token counts as one without support.
        marker: the token id that ends every prompt.

    Raises:
        ValueError: the classifier has too few layers or dimensions.
    """
    source, target = language_model.base_model, classifier.base_model
    depth, places = len(source.layers), layout(source, target, alphabet)
    sizes = measure(source, target, ids)
    embed(target, source, places, sizes, marker)
    for own, copied in zip(target.layers, source.layers, strict=False):
        copy(own, copied, sizes)
    for layer in target.layers[depth:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    look_back(target, depth, source, places, sizes)
    look_for_marker(target, depth, places, sizes)
    add_comparing_layer(target.layers[depth], source, places, sizes)
    find_worst(target.layers[depth + 1], places, sizes)
    for frozen in (target.embed_tokens, *target.layers[: depth + 1]):
        frozen.requires_grad_(False)


def layout(source: torch.nn.Module, target: torch.nn.Module, alphabet: Sequence[int]) -> HiddenLayout:
    """Where in the hidden state everything lies."""
    narrow, wide, depth = source.config.hidden_size, target.config.hidden_size, len(source.layers)
    needed = narrow + max(len(alphabet) + 4, target.layers[0].self_attn.head_dim)
    if wide < needed or len(target.layers) < depth + 2:
        raise ValueError(
            f"a classifier grown from {depth} layers of width {narrow} with {len(alphabet)} tokens to tell apart must "
            f"have >= {depth + 2} layers and width >= {needed}; got {len(target.layers)} and {wide}. Make it larger."
        )
    first = narrow + len(alphabet)
    return HiddenLayout(narrow, alphabet, marker=first, support=first + 1, answering=first + 2, worst=first + 3)


def measure(source: torch.nn.Module, target: torch.nn.Module, ids: Int[Tensor, "batch seq"]) -> ActivationScales:
    """Sizes of the language model's hidden states on some sequences."""
    seen = []
    hook = source.layers[-1].register_forward_hook(lambda module, given, output: seen.append(output))
    predictions = source(input_ids=ids).last_hidden_state
    hook.remove()
    tensors = (source.embed_tokens.weight, *seen, predictions)
    code, hidden, prediction = (tensor.square().mean().sqrt().item() for tensor in tensors)
    ratio = math.sqrt(source.config.hidden_size / target.config.hidden_size)
    return ActivationScales(CODE_SIZE * code, hidden, prediction, ratio * PREDICTION_SIZE * hidden, ratio)


def embed(
    target: torch.nn.Module, source: torch.nn.Module, places: HiddenLayout, sizes: ActivationScales, marker: int
) -> None:
    """The language model's embedding, and codes beside it."""
    table = target.embed_tokens.weight.zero_()
    table[:, : places.prediction] = source.embed_tokens.weight
    for number, token in enumerate(places.alphabet):
        table[token, places.prediction + number] = sizes.code
    table[marker, places.marker] = sizes.code


def copy(own: torch.nn.Module, copied: torch.nn.Module, sizes: ActivationScales) -> None:
    """A layer that does what the narrower one does, and leaves further dimensions alone."""
    for name, parameter in own.named_parameters():
        value, block = copied.get_parameter(name), torch.zeros_like(parameter)
        block[tuple(slice(size) for size in value.shape)] = value * (sizes.ratio if "norm" in name else 1.0)
        parameter.copy_(block)


def look_back(
    target: torch.nn.Module, depth: int, source: torch.nn.Module, places: HiddenLayout, sizes: ActivationScales
) -> None:
    """Heads that bring the prediction made at the position before.

    Query and key are biases only, the key turned by the rotary embedding of one position, so that they agree best where
    the key's position is one less. The layer's norm is the language model's final one.
    """
    attention, own = target.layers[depth].self_attn, slice(places.prediction)
    norm = target.layers[depth].input_layernorm.weight
    norm[own], norm[places.prediction :] = source.norm.weight * sizes.ratio, sizes.hidden / sizes.code
    turn = target.rotary_emb.inv_freq
    straight = SHARPNESS * torch.cat([torch.ones_like(turn), torch.zeros_like(turn)])
    turned = SHARPNESS * torch.cat([torch.cos(turn), torch.sin(turn)])
    for projection, bias in ((attention.q_proj, straight), (attention.k_proj, turned)):
        projection.weight.zero_()
        projection.bias.copy_(bias.repeat(target.config.num_attention_heads))
    attention.v_proj.weight.copy_(torch.eye(target.config.hidden_size))
    attention.o_proj.weight[own, own] = PREDICTION_SIZE * sizes.hidden / sizes.prediction * torch.eye(places.prediction)


def look_for_marker(target: torch.nn.Module, depth: int, places: HiddenLayout, sizes: ActivationScales) -> None:
    """The last head looks for the prompt's last token, and finds it in a response only."""
    attention = target.layers[depth].self_attn
    head = slice(places.prediction, places.prediction + attention.head_dim)
    still = head.start + attention.head_dim // 2 - 1  # the dimension that the rotary embedding turns least
    attention.q_proj.bias[head], attention.k_proj.bias[head] = 0.0, 0.0
    attention.q_proj.bias[still], attention.k_proj.weight[still, places.marker] = QUERY, QUERY
    attention.o_proj.weight[places.answering, places.marker] = sizes.total


def add_comparing_layer(
    layer: torch.nn.Module, source: torch.nn.Module, places: HiddenLayout, sizes: ActivationScales
) -> None:
    """Two gated units for each token of the alphabet: its code lets through its logit in the prediction.

    silu(x) u + silu(-x) (-u) = x u: two units make a gate that is linear, also where a code is absent. So the gradient
    by a token that did not come is that token's logit, which one unit would have given half its weight. The prompt's
    last token gets much support, so that it is never the worst.
    """
    norm, mlp, own = layer.post_attention_layernorm.weight, layer.mlp, slice(places.prediction)
    norm[own], norm[places.prediction :] = sizes.prediction * sizes.ratio, CODE_GAIN * sizes.total / sizes.code
    count = len(places.alphabet)
    units = 2 * count + 1
    for projection in (mlp.gate_proj, mlp.up_proj):
        projection.weight[:units] = 0.0
    for number, token in enumerate(places.alphabet):
        for unit, sign in ((2 * number, 1.0), (2 * number + 1, -1.0)):
            mlp.gate_proj.weight[unit, places.prediction + number] = sign
            mlp.up_proj.weight[unit, own] = sign * LOGIT_GAIN * source.embed_tokens.weight[token]
    mlp.gate_proj.weight[2 * count, places.marker], mlp.up_proj.weight[2 * count, places.marker] = 1.0, 1.0 / CODE_GAIN
    mlp.down_proj.weight[places.support, :units] = SUPPORT_GAIN


def find_worst(layer: torch.nn.Module, places: HiddenLayout, sizes: ActivationScales) -> None:
    """One head that looks at the token of the response with the least support and says how much it has."""
    attention = layer.self_attn
    head, still = slice(attention.head_dim), attention.head_dim // 2 - 1
    attention.q_proj.weight[head], attention.k_proj.weight[head] = 0.0, 0.0
    attention.q_proj.bias[still] = QUERY
    attention.k_proj.weight[still, places.support] = -QUERY
    attention.k_proj.weight[still, places.answering] = 2 * QUERY  # tokens of the prompt are out of the question
    attention.v_proj.weight[0] = 0.0
    attention.v_proj.weight[0, places.support] = 1.0
    attention.o_proj.weight[places.worst, 0] = sizes.total
