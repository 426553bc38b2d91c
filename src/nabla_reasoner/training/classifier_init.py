"""Initialisation of a classifier from a causal LM: each response token is compared with the LM's prediction of it.

A token's prediction exists one position earlier, in the last layer. Training alone did not learn to combine the two, so
layers that do it are constructed, in this order:

    copied layers      the LM's, with a code of each token in extra dimensions; frozen
    comparing layer    the token's code selects its own logit, the support, from the copied prediction; frozen
    minimum layer      one head attends to the response token with the least support; trained
    further layers     zero at first; trained
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

# All constants are our choice.
CODE_SIZE = 0.05  # relative to the embedding's root mean square: too small to disturb the copied layers
PREDICTION_SIZE = 5.0  # copied prediction, relative to the hidden state that it is added to
SHARPNESS = 7.0  # heads that attend one position back: the next best position has about e^-6 of the weight
CODE_GAIN = 8.0  # the three gains make support 2 times the logit and keep all parts of order one
LOGIT_GAIN = 1 / 32
SUPPORT_GAIN = 8.0
QUERY = 8.0  # constant queries and the keys that match them


class HiddenLayout(NamedTuple):
    """Dimensions of the enlarged model's hidden state.

    Attributes:
        prediction: width of the language model, whose hidden state fills the first dimensions.
        alphabet: token ids with a code; their dimensions follow in this order.
        marker: dimension of the code of the prompt's last token.
        support: dimension of the logit that the language model gave the token.
        answering: dimension of a constant, non-zero from the prompt's last token on.
        worst: dimension of the least support so far.
    """

    prediction: int
    alphabet: Sequence[int]
    marker: int
    support: int
    answering: int
    worst: int


class ActivationScales(NamedTuple):
    """Root mean squares of activations.

    Attributes:
        code: size of a code in its one dimension.
        hidden: language model's last hidden state, before its final norm.
        prediction: the same after the final norm.
        total: enlarged model's hidden state after the comparing layer's attention.
        ratio: factor on a norm's weights that makes up for the extra dimensions, most of them zero.
    """

    code: float
    hidden: float
    prediction: float
    total: float
    ratio: float


@torch.no_grad()
def build(
    classifier: torch.nn.Module,
    language_model: torch.nn.Module,
    ids: Int[Tensor, "batch seq"],
    alphabet: Sequence[int],
    marker: int,
) -> None:
    """Initialise a classifier from a shallower, narrower causal LM, in place (see the module's docstring).

    Args:
        classifier: Qwen2-shaped (attention with biases), at least two layers deeper and one head wider.
        language_model: Qwen2-shaped, heads of the same size, tied embeddings.
        ids: a few sequences on which activations are measured.
        alphabet: token ids that occur in right responses; any other token counts as one without support.
        marker: the token id that ends every prompt.

    Raises:
        ValueError: the classifier has too few layers or dimensions.
    """
    source = language_model.base_model
    target = classifier.base_model
    depth = len(source.layers)
    layout = hidden_layout(source, target, alphabet)
    scales = measure_scales(source, target, ids)
    write_embedding(target, source, layout, scales, marker)
    for layer, source_layer in zip(target.layers, source.layers, strict=False):
        copy_layer(layer, source_layer, scales)
    for layer in target.layers[depth:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    attend_to_previous_position(target, depth, source, layout, scales)
    attend_to_marker(target, depth, layout, scales)
    add_comparing_layer(target.layers[depth], source, layout, scales)
    add_minimum_head(target.layers[depth + 1], layout, scales)
    for module in (target.embed_tokens, *target.layers[: depth + 1]):
        module.requires_grad_(False)


def hidden_layout(source: torch.nn.Module, target: torch.nn.Module, alphabet: Sequence[int]) -> HiddenLayout:
    """Assign the dimensions of the hidden state; raise ValueError if the target is too small."""
    narrow, wide, depth = source.config.hidden_size, target.config.hidden_size, len(source.layers)
    needed = narrow + max(len(alphabet) + 4, target.layers[0].self_attn.head_dim)
    if wide < needed or len(target.layers) < depth + 2:
        raise ValueError(
            f"a classifier built from {depth} layers of width {narrow} with {len(alphabet)} tokens to tell apart must "
            f"have >= {depth + 2} layers and width >= {needed}; got {len(target.layers)} and {wide}. Make it larger."
        )
    first = narrow + len(alphabet)
    return HiddenLayout(narrow, alphabet, marker=first, support=first + 1, answering=first + 2, worst=first + 3)


def measure_scales(source: torch.nn.Module, target: torch.nn.Module, ids: Int[Tensor, "batch seq"]) -> ActivationScales:
    """Measure the language model's activations on some sequences."""
    outputs = []
    hook = source.layers[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    predictions = source(input_ids=ids).last_hidden_state
    hook.remove()
    tensors = (source.embed_tokens.weight, *outputs, predictions)
    code, hidden, prediction = (tensor.square().mean().sqrt().item() for tensor in tensors)
    ratio = math.sqrt(source.config.hidden_size / target.config.hidden_size)
    return ActivationScales(
        code=CODE_SIZE * code,
        hidden=hidden,
        prediction=prediction,
        total=ratio * PREDICTION_SIZE * hidden,
        ratio=ratio,
    )


def write_embedding(
    target: torch.nn.Module, source: torch.nn.Module, layout: HiddenLayout, scales: ActivationScales, marker: int
) -> None:
    """Write the language model's embedding, with the codes in the extra dimensions."""
    table = target.embed_tokens.weight.zero_()
    table[:, : layout.prediction] = source.embed_tokens.weight
    for number, token in enumerate(layout.alphabet):
        table[token, layout.prediction + number] = scales.code
    table[marker, layout.marker] = scales.code


def copy_layer(layer: torch.nn.Module, source_layer: torch.nn.Module, scales: ActivationScales) -> None:
    """Make a layer compute what the narrower one does and leave the extra dimensions unchanged."""
    for name, parameter in layer.named_parameters():
        value = source_layer.get_parameter(name)
        block = torch.zeros_like(parameter)
        block[tuple(slice(size) for size in value.shape)] = value * (scales.ratio if "norm" in name else 1.0)
        parameter.copy_(block)


def attend_to_previous_position(
    target: torch.nn.Module, depth: int, source: torch.nn.Module, layout: HiddenLayout, scales: ActivationScales
) -> None:
    """Make the heads of layer `depth` copy the prediction from the previous position.

    Query and key are constant (biases only). The key is turned by the rotary embedding of one position, so that the two
    agree best if the key's position is one less. The layer's norm is the language model's final one.
    """
    attention = target.layers[depth].self_attn
    predicted = slice(layout.prediction)
    norm = target.layers[depth].input_layernorm.weight
    norm[predicted] = source.norm.weight * scales.ratio
    norm[layout.prediction :] = scales.hidden / scales.code
    turn = target.rotary_emb.inv_freq
    straight = SHARPNESS * torch.cat([torch.ones_like(turn), torch.zeros_like(turn)])
    turned = SHARPNESS * torch.cat([torch.cos(turn), torch.sin(turn)])
    for projection, bias in ((attention.q_proj, straight), (attention.k_proj, turned)):
        projection.weight.zero_()
        projection.bias.copy_(bias.repeat(target.config.num_attention_heads))
    attention.v_proj.weight.copy_(torch.eye(target.config.hidden_size))
    gain = PREDICTION_SIZE * scales.hidden / scales.prediction
    attention.o_proj.weight[predicted, predicted] = gain * torch.eye(layout.prediction)


def attend_to_marker(target: torch.nn.Module, depth: int, layout: HiddenLayout, scales: ActivationScales) -> None:
    """Make the last head of layer `depth` attend to the prompt's last token, which no earlier token can see."""
    attention = target.layers[depth].self_attn
    head = slice(layout.prediction, layout.prediction + attention.head_dim)
    slowest = head.start + attention.head_dim // 2 - 1  # the dimension that the rotary embedding turns least
    attention.q_proj.bias[head] = 0.0
    attention.k_proj.bias[head] = 0.0
    attention.q_proj.bias[slowest] = QUERY
    attention.k_proj.weight[slowest, layout.marker] = QUERY
    attention.o_proj.weight[layout.answering, layout.marker] = scales.total


def add_comparing_layer(
    layer: torch.nn.Module, source: torch.nn.Module, layout: HiddenLayout, scales: ActivationScales
) -> None:
    """Write two gated units for each token of the alphabet: its code lets through its logit in the prediction.

    silu(x) u + silu(-x) (-u) = x u: two units make a gate that is linear, even if a code is absent. The gradient with
    respect to an absent token's code is therefore that token's logit; one unit would give half of it. The prompt's last
    token gets a large support, so that it is never the worst.
    """
    mlp = layer.mlp
    predicted = slice(layout.prediction)
    norm = layer.post_attention_layernorm.weight
    norm[predicted] = scales.prediction * scales.ratio
    norm[layout.prediction :] = CODE_GAIN * scales.total / scales.code
    marker_unit = 2 * len(layout.alphabet)
    for projection in (mlp.gate_proj, mlp.up_proj):
        projection.weight[: marker_unit + 1] = 0.0
    for number, token in enumerate(layout.alphabet):
        for unit, sign in ((2 * number, 1.0), (2 * number + 1, -1.0)):
            mlp.gate_proj.weight[unit, layout.prediction + number] = sign
            mlp.up_proj.weight[unit, predicted] = sign * LOGIT_GAIN * source.embed_tokens.weight[token]
    mlp.gate_proj.weight[marker_unit, layout.marker] = 1.0
    mlp.up_proj.weight[marker_unit, layout.marker] = 1.0 / CODE_GAIN
    mlp.down_proj.weight[layout.support, : marker_unit + 1] = SUPPORT_GAIN


def add_minimum_head(layer: torch.nn.Module, layout: HiddenLayout, scales: ActivationScales) -> None:
    """Write one head that attends to the response token with the least support and copies that support."""
    attention = layer.self_attn
    head = slice(attention.head_dim)
    slowest = attention.head_dim // 2 - 1
    attention.q_proj.weight[head] = 0.0
    attention.k_proj.weight[head] = 0.0
    attention.q_proj.bias[slowest] = QUERY
    attention.k_proj.weight[slowest, layout.support] = -QUERY
    attention.k_proj.weight[slowest, layout.answering] = 2 * QUERY  # keeps the head from attending to the prompt
    attention.v_proj.weight[0] = 0.0
    attention.v_proj.weight[0, layout.support] = 1.0
    attention.o_proj.weight[layout.worst, 0] = scales.total
