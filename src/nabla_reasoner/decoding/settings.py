"""Variants of the algorithm (`fixed`, `release`, `paper`) and acceptance rules."""

from typing import NamedTuple


class Variant(NamedTuple):
    """The points on which the paper's text, its released code and the mended code differ.

    Attributes:
        selection: "confidence": top probability <= confidence_threshold; "entropy": H > entropy_threshold.
        gate: ε_grad is compared with the norm of ∂L/∂"onehot" or of ∂L/∂"logits".
        update: rows that DTO moves, "first" or "all".
        hard_tokens: DTO's hard forward reads the "sampled" tokens or the "argmax" of the rollout's logits.
        prompt_twice: the incumbent is scored with the chat prompt repeated inside its answer.
    """

    selection: str
    gate: str
    update: str
    hard_tokens: str
    prompt_twice: bool


VARIANTS = {
    "fixed": Variant("confidence", "onehot", "first", "sampled", prompt_twice=False),
    "release": Variant("confidence", "onehot", "first", "argmax", prompt_twice=True),  # decoding.py:280, optimize.py:33
    "paper": Variant("entropy", "logits", "all", "sampled", prompt_twice=False),
}
ACCEPTANCES = ("higher", "always")  # a proposal stays if its reward is higher, or in any case
