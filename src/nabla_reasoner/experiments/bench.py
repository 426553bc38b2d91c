"""Speed, FLOPs and memory, each beside a baseline measured in the same run.

Writes bench.csv, spread.csv (every single timing), profile.csv (seconds by part) and bench.md after each case, so
that an interrupted first run keeps what it finished, and the figure at the end. A later run that does not finish leaves
the earlier results as they were.

A case of bench.csv is named NAME or NAME__POINT (a policy and a task, a length, a batch). Its first row is the
baseline, its second the variant that is compared with it. `ratio_to_reference` divides the second's quantity by the
first's:

    gradient_flops                FLOPs of gradient evaluations; fast engine / reference engine with a cache in each DTO
                                  call (Alg. 4)
    printed_gradient_flops        the same; fast engine / reference engine that evaluates at each of T steps (Alg. 2)
    lookup_and_gradient_flops     FLOPs besides rollouts and scores; fast engine / reference engine (Alg. 4)
    best_of_n_flops               all FLOPs; ∇-Reasoner, one pass / Best-of-8 (the paper's Table 5: 25.8)
    best_of_n_seconds             seconds; ∇-Reasoner, one pass / Best-of-8
    prefix_gradient_flops         as gradient_flops (Alg. 4), for the prefix form under Table 1's reward
    prefix_best_of_n_flops        all FLOPs; prefix form / Best-of-8, under Table 1's reward
    prefix_best_of_n_seconds      seconds; the same
    engine_seconds                seconds; fast engine on a batch / reference engine, one problem at a time
    evaluation_seconds            seconds; one gradient evaluation of a batch / bare passes of the same models
    sampling_rate                 tokens per second of rollouts; vLLM / Hugging Face (scale=small, needs server_python)
    dto_memory                    peak bytes besides weights; one DTO call / bare passes of the same models
    evaluation_against_decoding   seconds; one gradient evaluation / decoding the same sequence; by length
    evaluation_by_length          seconds; one gradient evaluation / bare passes; by length, one sequence
    evaluation_by_batch           seconds; one gradient evaluation / bare passes; by number of sequences

On a GPU, with random weights in models of 7 B and 4 B, by number of sequences:

    utilisation                   FLOP/s; one gradient evaluation / a large matrix product
    paper_size_seconds            seconds; one gradient evaluation / bare passes
    paper_size_memory             peak bytes besides weights; one gradient evaluation / bare passes
    compiled_passes               seconds; bare passes with torch.compile of every layer / without

`seconds` are medians, per problem where problems are solved. `flops` are those that the case compares; the columns of
tokens count whole runs (forward: every token read, prompts included). Bare passes are a loss of plain Hugging Face
modules, back to the input embeddings.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from ..benchmark import results
from ..benchmark.cases import CASES, cells
from ..benchmark.context import BenchContext, Comparison
from ..benchmark.figure import draw_bench
from ..config.settings import BenchSettings
from ..evaluation import provenance
from ..evaluation.error_text import error_text
from ..reporting import figures
from ..reporting.frames import read_frame
from ..reporting.method_names import NABLA_REASONER
from ..serving.process import check_python
from .command import Command, refusing
from .recording import Progress, Recording

FILES = ("bench.csv", "spread.csv", "profile.csv", "summary.json")


class Report:
    """The files of a run; `results` holds by case and point the measurement, or the reason why there is none.

    Args:
        name: of the page and the figure.
    """

    def __init__(self, folder: Path, name: str, settings: BenchSettings, facts: str):
        self.folder, self.name, self.facts, self.scale = folder, name, facts, settings.scale
        self.results: dict[str, dict[str, Comparison | str]] = {}

    def verdict(self, name: str) -> results.Verdict:
        """Return the verdict on a case."""
        case = CASES[name]
        return results.verdict(name, self.results[name], case.kind, case.targets.get(self.scale))

    def write(self) -> str:
        """Write bench.csv, spread.csv, profile.csv and bench.md of the finished cases; returns the last."""
        table, spread = results.rows(self.results, CASES), results.spread_rows(self.results)
        text = results.markdown(self.results, CASES, self.scale, self.facts)
        profile = results.profile_rows(self.results)
        for name, frame in (("bench", table), ("spread", spread), ("profile", profile)):
            frame.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.6g")
        (self.folder / f"{self.name}.md").write_text(text, encoding="utf-8")
        return text

    def draw(self) -> None:
        """Write the figure, if anything was measured."""
        table, spread = (read_frame(self.folder / f"{name}.csv") for name in ("bench", "spread"))
        if table.ratio_to_reference.notna().any():
            targets = {name: case.targets[self.scale] for name, case in CASES.items() if self.scale in case.targets}
            figure = draw_bench(table, spread, targets)
            figures.save(figure, self.folder, self.name)
            plt.close(figure)


def _measure(bench: BenchContext, name: str, point: str) -> Comparison | str:
    """Return a measurement, or the reason why there is none: a failing case must not stop the others."""
    if CASES[name].gpu and bench.device.type != "cuda":
        return "not run: needs an NVIDIA GPU and device=cuda"
    if name == "sampling_rate" and bench.settings.server_python is None:
        return "not run: needs server_python=PYTHON of an environment with vLLM (docs/serving.md)"
    try:
        return CASES[name].measure(bench, point)
    except Exception as error:
        return f"failed: {error_text(error)}"


def _facts(settings: BenchSettings) -> str:
    """Return the circumstances of the run, in one sentence."""
    hardware, state = provenance.device_facts(settings.device), provenance.commit()
    commit = f", commit {state['commit'][:8]}{'-dirty' if state['dirty'] else ''}" if state["commit"] else ""
    where = f"{torch.get_num_threads()} thread(s) of {hardware['count']}" if settings.device == "cpu" else "GPU"
    return (
        f"scale={settings.scale}; {where} ({hardware['device']}), torch {torch.__version__}{commit}; medians of "
        f"{settings.repeats} repeats, both sides in turns after a warm-up of each."
    )


def run(command: Command, settings: BenchSettings) -> int:
    """Measure the selected cases; return the exit status."""
    with refusing():
        names = chosen_cases(settings)
        settings = settings.model_copy(update={"cases": names})
        if settings.server_python is not None:
            check_python(settings.server_python)
        bench = BenchContext(settings)
        for policy, task in (point.split("__") for point in cells(settings)):
            bench.cell(policy, task, NABLA_REASONER)  # a wrong name is refused before anything is computed
        bench.models(settings.policies[0])
    files = (*FILES, *(f"{command.target.name}.{kind}" for kind in ("md", "png", "pdf")))
    varied = {"seed": [0], "case": names}
    with (
        Recording(
            command, settings.model_dump(), scale=settings.scale, varied=varied, device=settings.device, replaces=files
        ) as recording,
        Progress(sum(CASES[name].weight for name in names), len(names)) as progress,
    ):
        report = Report(recording.folder, command.target.name, settings, _facts(settings))
        for name in names:
            with progress.part(name, CASES[name].weight) as part:
                points = CASES[name].points(settings)
                report.results[name] = {}
                for point in points:
                    report.results[name][point] = _measure(bench, name, point)
                    part.advance(1 / len(points))
                text = report.write()
                part.note = report.verdict(name).value
        report.draw()
        measured = [result for points in report.results.values() for result in points.values()]
        ratios = read_frame(recording.folder / "bench.csv").dropna(subset=["ratio_to_reference"])
        print(f"\n{text}")
        return recording.finish(
            failed=any(isinstance(result, str) and result.startswith("failed") for result in measured),
            tables=("bench", "spread"),
            metrics={f"ratio/{row.case}/{row.variant}": row.ratio_to_reference for row in ratios.itertuples()},
            facts={"threads": torch.get_num_threads()},
        )


def chosen_cases(settings: BenchSettings) -> list[str]:
    """Return the cases to run, in their order.

    Raises:
        ValueError: a case that the scale does not have, or a missing GPU.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda needs an NVIDIA GPU; none was found. Use device=cpu.")
    valid = [name for name, case in CASES.items() if (case.tiny if settings.scale == "tiny" else case.small)]
    unknown = [name for name in settings.cases or [] if name not in valid]
    if unknown:
        raise ValueError(
            f"cases must be a list of {', '.join(valid)} at scale={settings.scale}; got {', '.join(unknown)}. "
            "Write cases=[NAME]."
        )
    return [name for name in valid if settings.cases is None or name in settings.cases]
