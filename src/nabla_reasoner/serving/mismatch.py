"""Differences between two engines that run the same model: log-probabilities of the same tokens, and argmaxes."""

from collections.abc import Iterable
from typing import NamedTuple

from .client import Client, ServerError
from .completions import Completion
from .teacher_forcing import ForcedPredictions

ENOUGH = 4  # tokens over which a mean difference tells two models apart


class Mismatch(NamedTuple):
    """Sums over tokens that one engine sampled and the other one read.

    Attributes:
        tokens: number of tokens compared.
        total: sum of |Δ log-probability| over them, in nats.
        largest: the largest of these differences.
        argmaxes: number of tokens at which the most likely token differs.
    """

    tokens: int = 0
    total: float = 0.0
    largest: float = 0.0
    argmaxes: int = 0

    def summary(self) -> dict[str, float | int | None]:
        """Return what a reader wants to know; nulls if nothing was compared."""
        return {
            "tokens_compared": self.tokens,
            "mean_log_prob_difference": self.total / self.tokens if self.tokens else None,
            "largest_log_prob_difference": self.largest if self.tokens else None,
            "share_of_differing_argmaxes": self.argmaxes / self.tokens if self.tokens else None,
        }


def compare(completion: Completion, forced: ForcedPredictions) -> Mismatch:
    """Compare the server's log-probabilities of a continuation with the policy's own."""
    known_values = forced.log_probs.double().tolist()
    differences = [abs(value - known) for value, known in zip(completion.log_probs, known_values, strict=True)]
    pairs = zip(completion.most_likely, forced.most_likely.tolist(), strict=True)
    return Mismatch(
        len(known_values), sum(differences), max(differences), sum(theirs != ours for theirs, ours in pairs)
    )


def joined(parts: Iterable[Mismatch]) -> Mismatch:
    """Return the differences over all tokens of several parts."""
    whole = list(parts)
    return Mismatch(
        tokens=sum(part.tokens for part in whole),
        total=sum((part.total for part in whole), start=0.0),
        largest=max((part.largest for part in whole), default=0.0),
        argmaxes=sum(part.argmaxes for part in whole),
    )


class ComparedServer:
    """A server whose results are compared with those of the model here.

    Args:
        client: connection to the server.

    Attributes:
        mismatch: difference of the engines over what was compared since `take_mismatch`.
    """

    def __init__(self, client: Client):
        self.client = client
        self.mismatch = Mismatch()

    def add_differences(
        self, completions: Iterable[Completion], forced: Iterable[ForcedPredictions], bound: float
    ) -> None:
        """Compare what the server gave with the model's own predictions, and add the differences to `mismatch`.

        Args:
            bound: largest mean difference of two engines of one model, in nats (`identity.BOUNDS`).

        Raises:
            ServerError: a larger one: the server has come back with another model of the same name.
        """
        pairs = zip(completions, forced, strict=True)
        self.mismatch = joined([self.mismatch, *(compare(completion, own) for completion, own in pairs)])
        mean = self.mismatch.total / max(self.mismatch.tokens, 1)
        if self.mismatch.tokens >= ENOUGH and mean > bound:
            raise ServerError(
                f"wrong model behind {self.client.url}: log-probabilities of {self.mismatch.tokens} tokens differ from "
                f"those of the model here by {mean:.3g} nats on average, which must be at most {bound}. Serve "
                "the model that was there when the run began"
            )

    def take_retries(self) -> int:
        """Return the number of repeated attempts since the last call, and set it to zero."""
        taken, self.client.retries = self.client.retries, 0
        return taken

    def take_mismatch(self) -> Mismatch:
        """Return the differences since the last call, and forget them."""
        taken, self.mismatch = self.mismatch, Mismatch()
        return taken
