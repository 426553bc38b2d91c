"""Methods in tables and figures: order, names, colour and marker; and the groups that comparisons are made of."""

from typing import NamedTuple

from ..config.schema import NABLA_METHODS


class MethodStyle(NamedTuple):
    """How a method is shown.

    Attributes:
        label: name in figures and in the report. It has no sizes, which are settings.
        name: name in sentences.
        colour: of Okabe and Ito's or Tol's palette, safe for colour-blind readers, and greys.
        marker: a different one for each method, for print.
    """

    label: str
    name: str
    colour: str
    marker: str


STYLES = {  # in the order of a table's rows
    "greedy": MethodStyle("Greedy", "greedy", "#999999", "s"),
    "self_consistency": MethodStyle("Self-Consistency", "Self-Consistency", "#56B4E9", "v"),
    "best_of_n": MethodStyle("Best-of-N", "Best-of-N", "#0072B2", "o"),
    "soft_best_of_n": MethodStyle("Soft Best-of-N", "Soft Best-of-N", "#0072B2", "d"),
    "weighted_self_consistency": MethodStyle("Weighted Self-Consistency", "Weighted Self-Consistency", "#56B4E9", "p"),
    "judge_greedy": MethodStyle("Judge alone, greedy", "the judge alone", "#882255", "1"),
    "logit_mixture": MethodStyle("Logits of policy and judge", "the logit mixture", "#332288", "2"),
    "guided_decoding": MethodStyle("Guided decoding", "guided decoding", "#117733", "3"),
    "guided_decoding_gradient": MethodStyle(
        "Guided decoding, by gradient", "guided decoding by gradient", "#999933", "x"
    ),
    "tree_of_thoughts": MethodStyle("Tree of Thoughts", "Tree-of-Thoughts", "#009E73", "^"),
    "rap": MethodStyle("RAP", "RAP", "#000000", "X"),
    "particle_filter": MethodStyle("Particle filter", "the particle filter", "#44AA99", "8"),
    "mh_resampling": MethodStyle("MH resampling", "MH resampling", "#999933", "4"),
    "discrete_langevin": MethodStyle("Discrete Langevin", "discrete Langevin", "#AA4499", "H"),
    "tpo": MethodStyle("TPO", "TPO", "#F0E442", "h"),
    "sft": MethodStyle("SFT, greedy", "SFT", "#8C564B", "<"),
    "grpo": MethodStyle("GRPO, greedy", "GRPO", "#4D4D4D", ">"),
    "nabla_without_gradient": MethodStyle("∇ without gradient (null arm)", "the null arm", "#E69F00", "D"),
    "nabla_reasoner": MethodStyle("∇-Reasoner, outcome form", "∇-Reasoner", "#D55E00", "*"),
    "nabla_reasoner_multipass": MethodStyle("∇-Reasoner, outcome form, several passes", "∇-Reasoner", "#CC79A7", "+"),
    "nabla_prefix_without_gradient": MethodStyle(
        "∇ prefix form without gradient (null arm)", "the prefix form's null arm", "#DDCC77", "d"
    ),
    "nabla_reasoner_prefix": MethodStyle("∇-Reasoner, prefix form", "∇-Reasoner in prefix form", "#661100", "P"),
}
METHODS = tuple(STYLES)


def base_name(method: str) -> str:
    """Return a method's name without what `stored_cells` adds where settings differ."""
    return method.partition(" (")[0]


def rank(method: str) -> tuple[int, str]:
    """Return the key by which methods are sorted: in the order of `STYLES`, unknown ones last by name."""
    name = base_name(method)
    return METHODS.index(name) if name in METHODS else len(METHODS), method


def label(method: str) -> str:
    """Return a method's name in figures and in the report; an unknown one is its own label."""
    style = STYLES.get(base_name(method))
    return method if style is None else style.label + method.removeprefix(base_name(method))


BEST_OF_N = "best_of_n"
NULL_ARM = "nabla_without_gradient"  # the same loop without the gradient
# One pass, as the paper's; two extensions of ours: several passes, and the reward read at each token.
NABLA_REASONER, MULTIPASS, PREFIX = NABLA_METHODS
PREFIX_NULL_ARM = "nabla_prefix_without_gradient"  # the same without the gradient
SEARCHES = ("self_consistency", BEST_OF_N, "tree_of_thoughts", "rap", "tpo")  # sampling and search baselines
SELECTORS = ("self_consistency", BEST_OF_N, "soft_best_of_n", "weighted_self_consistency")  # of one pool of samples
TRAINED = ("sft", "grpo")  # greedy decoding of a policy improved by training
ANYTIME = ("greedy", "self_consistency", BEST_OF_N, NULL_ARM, PREFIX_NULL_ARM, *NABLA_METHODS)  # curves of Figure 4
REJECTING = (BEST_OF_N, NULL_ARM, PREFIX_NULL_ARM, *NABLA_METHODS)  # methods with a rejection rate in Table 3
