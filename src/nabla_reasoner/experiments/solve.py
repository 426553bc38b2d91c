"""One question, answered by greedy decoding and by the chosen method."""

from ..config import build, compose
from ..config.schema import Cell
from ..engine import scoring
from ..types import Problem
from .command import DONE, Command, refusing


def run(command: Command, cell: Cell) -> int:
    """Answer the question with both methods and print responses, rewards and costs; returns the exit status."""
    shared = [override for override in command.overrides if not override.startswith(("method=", "method."))]
    problem = Problem("question", command.argument, None, "free")
    with refusing():
        (baseline,) = compose.compose_cells([f"experiment={command.target.name}", *shared, "method=greedy"])
        methods = {part["method"]["name"]: build.build_method(part) for part in (baseline, cell)}
        build.prepare_models(cell)
        policy, reward = build.load_models(cell)
        for model in (policy, reward):
            model.check_length(len(model.prompt_ids(problem.messages)), cell["max_new_tokens"])
    print(f"policy {policy.name}, reward {reward.name} ({reward.kind})")
    for name, method in methods.items():
        (solution,) = method.solve([problem], policy, reward, seed=cell["seed"])
        value = solution.reward
        if value is None:  # the method did not use the reward model; shown for comparison, not part of its cost
            (value,), _ = scoring.rewards(reward, [reward.prompt_ids(problem.messages)], [solution.token_ids])
        cost = solution.cost
        print(f"\n{name}\n  {solution.response}")
        print(
            f"  reward {value:.4g}; {cost.decode_tokens} decoded tokens, {cost.gradient_evaluations} gradient "
            f"evaluations, {cost.model_calls} model calls, {cost.flops:.3g} FLOPs, {cost.seconds:.2f} s"
        )
    return DONE
