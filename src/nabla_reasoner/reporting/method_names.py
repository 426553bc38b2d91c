"""Names of the methods: order in tables, label, colour and marker in figures."""

# Colour-blind safe (Okabe and Ito); every method also has a marker of its own, for print.
STYLES = {
    "greedy": ("Greedy", "#999999", "s"),
    "self_consistency": ("Self-Consistency, N = 8", "#56B4E9", "v"),
    "best_of_n": ("Best-of-8", "#0072B2", "o"),
    "tree_of_thoughts": ("Tree of Thoughts", "#009E73", "^"),
    "rap": ("RAP, 8 simulations", "#000000", "X"),
    "tpo": ("TPO, 8 responses", "#F0E442", "h"),
    "sft": ("SFT, greedy", "#8C564B", "<"),
    "grpo": ("GRPO, greedy", "#4D4D4D", ">"),
    "nabla_without_gradient": ("∇ without gradient (null arm)", "#E69F00", "D"),
    "nabla_reasoner": ("∇-Reasoner, one pass", "#D55E00", "*"),
    "nabla_reasoner_multipass": ("∇-Reasoner, up to 4 passes", "#CC79A7", "P"),
}

METHODS = (  # the order of a table's rows
    "greedy",
    "self_consistency",
    "best_of_n",
    "tree_of_thoughts",
    "rap",
    "tpo",
    "sft",
    "grpo",
    "nabla_without_gradient",
    "nabla_reasoner",
    "nabla_reasoner_multipass",
)

NAMES = {name: label for name, (label, _, _) in STYLES.items()}
