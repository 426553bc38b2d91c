"""One question, answered by greedy decoding and by the chosen method."""

from collections.abc import Callable, Sequence

from ..config import build, compose


def prepare_solve(arguments: Sequence[str]) -> Callable[[], int]:
    """Check `solve "question" [settings]`; the returned function answers by greedy decoding and by the chosen method.

    Raises:
        ValueError: no question, a wrong setting, or a prompt beyond the policy's context.
    """
    if not arguments or not arguments[0].strip():
        raise ValueError('solve needs a question, e.g. ./reproduce.sh solve "12+34-5=?".')
    from ..types import Problem

    question, overrides = arguments[0], list(arguments[1:])
    chosen = compose.compose_cells(overrides)
    if len(chosen) != 1:
        raise ValueError(f"solve takes one choice of each group; got {len(chosen)} combinations. Give single values.")
    shared = [override for override in overrides if not override.startswith(("method=", "method."))]
    baseline = compose.compose_cells([*shared, "method=greedy"])
    methods = [(cell["method"]["name"], build.build_method(cell)) for cell in [*baseline, *chosen]]
    build.prepare_models(chosen[0])
    policy, reward = build.load_models(chosen[0])
    problem = Problem("question", question, None, "free")
    messages = problem.messages
    policy.check_length(len(policy.prompt_ids(messages)), chosen[0]["max_new_tokens"])
    from ..engine import scoring

    def answer() -> int:
        print(f"policy {policy.name}, reward {reward.name} ({reward.kind})")
        for name, method in dict(methods).items():
            solution = method.solve([problem], policy, reward, seed=chosen[0]["seed"])[0]
            if solution.reward is None:  # the method did not ask; shown for comparison, not part of its cost
                values, _ = scoring.rewards(reward, [reward.prompt_ids(messages)], [solution.token_ids])
                solution = solution._replace(reward=values[0])
            spent = solution.cost
            print(f"\n{name}\n  {solution.response}")
            print(
                f"  reward {solution.reward:.4g}; {spent.decode_tokens} decoded tokens, {spent.gradient_evaluations} "
                f"gradient evaluations, {spent.model_calls} model calls, {spent.flops:.3g} FLOPs, {spent.seconds:.2f} s"
            )
        return 0

    return answer
