"""Numerics of the output layer: at least float32, chunked products, log-likelihood, confidence, entropy."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.language_models import Policy


class NonFiniteError(ArithmeticError):
    """NaN or infinity where a number is needed; the problem concerned fails with this reason.

    Args:
        what: the quantity and where it was met, e.g. "logits of NAME for token 3".
        remedy: what to do.
    """

    def __init__(self, what: str, remedy: str = "Use dtype=float32 or other weights."):
        super().__init__(f"{what} must be finite; got NaN or infinity. {remedy}")


CHUNK = 2**24  # largest number of entries of a temporary [rows, vocab] buffer
HALF = (torch.bfloat16, torch.float16)
CPU_SLICE = 2**20  # entries of a converted matrix that stay in a CPU's cache until they are used


def at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert half precision to float32, so that no probability or norm is computed in half precision."""
    return tensor.float() if tensor.dtype in HALF else tensor


def finite_rows(logits: Float[Tensor, "*rows vocab"]) -> Bool[Tensor, "*rows"]:
    """Return which rows yield a distribution: no NaN, no +infinity, and not -infinity everywhere."""
    return logits.amax(-1).isfinite()


def check_optimised(logits: Float[Tensor, "rows vocab"]) -> None:
    """Raise NonFiniteError unless every row of logits after DTO yields a distribution."""
    if not finite_rows(logits).all():
        raise NonFiniteError("the logits after DTO", "Lower step_size, or use dtype=float32.")


def first_non_finite(rows: Float[Tensor, "*shape"]) -> int | None:
    """Return the index along the first axis of the first row with NaN or infinity; None if there is none."""
    finite = rows.isfinite().reshape(len(rows), -1).all(-1)
    return None if finite.all() else int(finite.int().argmin())


def chunks(rows: int, width: int, entries: int | None = None) -> list[slice]:
    """Split `rows` rows into slices whose [rows, width] buffers have at most `entries` entries, CHUNK by default."""
    size = max(1, (entries or CHUNK) // width)
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def _converted(matrix: Float[Tensor, "vocab hidden"]) -> Iterator[tuple[slice, Float[Tensor, "part hidden"]]]:
    """Yield a half-precision matrix in float32, slice by slice; each is valid until the next one, in one buffer."""
    slices = chunks(*matrix.shape, min(CHUNK, CPU_SLICE) if matrix.device.type == "cpu" else None)
    buffer = matrix.new_empty(slices[0].stop, matrix.shape[1], dtype=torch.float32)
    for part in slices:
        yield part, buffer[: part.stop - part.start].copy_(matrix[part])


def project_to_vocab(
    rows: Float[Tensor, "rows hidden"], matrix: Float[Tensor, "vocab hidden"]
) -> Float[Tensor, "rows vocab"]:
    """Return rows @ matrixᵀ in at least float32; a half-precision matrix is converted slice by slice."""
    if matrix.dtype not in HALF:
        return rows @ matrix.T
    rows = at_least_float32(rows)
    product = rows.new_empty(len(rows), len(matrix))
    for part, converted in _converted(matrix):
        product[:, part] = rows @ converted.T
    return product


def project_to_hidden(
    rows: Float[Tensor, "rows vocab"], matrix: Float[Tensor, "vocab hidden"]
) -> Float[Tensor, "rows hidden"]:
    """Return rows @ matrix in at least float32; a half-precision matrix is converted slice by slice."""
    if matrix.dtype not in HALF:
        return rows @ matrix
    return sum(at_least_float32(rows[:, part]) @ converted for part, converted in _converted(matrix))


@torch.no_grad()
def likelihood(
    model: Policy, hidden: Float[Tensor, "rows hidden"], targets: Int[Tensor, " rows"], *, gradient: bool = False
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows hidden"] | None]:
    """Return log π (nats) of each target given the hidden state that predicts it, and its derivative by that state.

    The output matrix is applied in chunks of rows, so that memory holds one [rows, vocab] buffer of a chunk only.

    Args:
        gradient: compute the derivative; otherwise it is None.

    Returns:
        The values on the CPU, where callers add them up text by text without waiting for a GPU each time; the
        derivatives on the model's device.
    """
    values, derivatives = [], []
    for part in chunks(len(hidden), model.vocab_size):
        logits = at_least_float32(model.logits(hidden[part]))
        normalizer = logits.logsumexp(-1, keepdim=True)
        columns = targets[part, None]
        values.append((logits.gather(1, columns) - normalizer)[:, 0])
        if gradient:
            residual = logits.sub_(normalizer).exp_().neg_()  # onehot - softmax, in the logits' own memory
            residual.scatter_add_(1, columns, torch.ones_like(columns, dtype=residual.dtype))
            derivatives.append(residual.to(hidden.dtype) @ model.head.weight[: model.vocab_size])
    return torch.cat(values).cpu(), torch.cat(derivatives) if gradient else None


def entropy(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Return the entropy H(softmax z) in nats."""
    return torch.distributions.Categorical(logits=logits, validate_args=False).entropy()


def confidence(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Return the largest probability of softmax z, in (0, 1]."""
    return torch.softmax(logits, -1).amax(-1)
