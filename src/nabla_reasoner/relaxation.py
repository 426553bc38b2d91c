"""The straight-through estimator (Section 3.2, arXiv 2603.04948) and its chain rule (Eq. 25).

Forward the token is hard, backward it is softmax(z/τ). Because the forward value is one-hot, ∂L/∂y depends on the hard
sequence alone; only the softmax's Jacobian depends on the current logits. `logits_gradient` is that Jacobian.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def straight_through(
    logits: Float[Tensor, "*rows vocab"], tokens: Int[Tensor, "*rows"], *, temperature: float = 1.0
) -> Float[Tensor, "*rows vocab"]:
    """y = onehot(token) + softmax(z/τ) - stopgrad(softmax(z/τ)).

    Args:
        logits: z, any number of rows.
        tokens: the hard token of each row. The paper writes argmax_j z_j; what was sampled is passed instead, so that
            both models read the text that is being revised.
        temperature: τ > 0 (not reported by the paper; 1 in the released code).

    Returns:
        Rows that equal the one-hot tokens and differentiate like softmax(z/τ).
    """
    soft = torch.softmax(logits / temperature, -1)
    hard = torch.nn.functional.one_hot(tokens, logits.shape[-1]).to(logits.dtype)
    return hard + soft - soft.detach()


def logits_gradient(
    logits: Float[Tensor, "rows vocab"], onehot_gradient: Float[Tensor, "rows vocab"], *, temperature: float = 1.0
) -> Float[Tensor, "rows vocab"]:
    """∂L/∂z = p ⊙ (∂L/∂y - pᵀ ∂L/∂y) / τ with p = softmax(z/τ) (Eq. 25).

    A token with p ≈ 0 gets almost no gradient, and so does every token of a row that is almost certain.
    """
    probabilities = torch.softmax(logits / temperature, -1)
    mean = (probabilities * onehot_gradient).sum(-1, keepdim=True)
    return probabilities * (onehot_gradient - mean) / temperature


def entropy(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """H(softmax z) in nats."""
    return torch.distributions.Categorical(logits=logits, validate_args=False).entropy()


def confidence(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """The largest probability of softmax z, in (0, 1]."""
    return torch.softmax(logits, -1).amax(-1)
