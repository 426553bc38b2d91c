"""Help of the command line: the list of targets, and the settings of one target with defaults and an example."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from .cell import Cell, RunSettings
from .compose import compose_experiment, compose_recipe, compose_settings
from .data_folder import repository
from .schema import CONFIGS, GROUPS, choices
from .settings import SETTINGS
from .targets import Target, targets

COMMENT = re.compile(r"^(\w+):[^#\n]*#[ ]*(.+)$", re.M)
OVERVIEW = """usage: ./reproduce.sh TARGET [key=value ...]

{targets}{test}
  {help:<22}this text; ./reproduce.sh TARGET --help lists the settings of a target

examples: ./reproduce.sh table1 policy=tiny-base task=products seed=0 num_problems=20
          ./reproduce.sh plan table1 scale=paper
Results lie in results/<scale>/<target>/ (results_dir=DIR puts them elsewhere). An interrupted command resumes when it
is run again."""


def overview() -> str:
    """Return the list of all targets."""
    lines = [f"  {f'{target.name} {target.argument}':<22}{target.summary}" for target in targets().values()]
    test = f"\n  {'test [--all]':<22}lint and tests; --all adds the slow ones; other arguments go to pytest"
    return OVERVIEW.format(targets="\n".join(lines), test=test if repository() else "", help="help")


def describe(target: Target) -> str:
    """Return what a target does, and its settings with their defaults, meaning and valid choices."""
    usage = " ".join(["usage: ./reproduce.sh", target.name, *([target.argument] if target.argument else [])])
    lines = [f"{usage} [key=value ...]", "", target.summary[0].upper() + target.summary[1:] + "."]
    if target.reads:
        lines.append(f"Reads the results of: {', '.join(target.reads)}.")
    if target.writes:
        place = target.place or f"results_dir/{target.path('SCALE')}"
        lines.append(f"Writes to {place}: {', '.join(target.writes)}.")
    if target.minutes:
        lines.append(f"Takes about {target.minutes:g} min at scale=tiny on two idle cores.")
    return "\n".join([*lines, "", "settings and defaults:", *_settings(target), "", f"example: {target.example}"])


def _settings(target: Target) -> list[str]:
    """Return a line for each setting."""
    notes = _comments(CONFIGS / "config.yaml") | _comments(CONFIGS / "experiment" / f"{target.name}.yaml")
    if target.settings == "plan":
        return [_line("gpu", None, notes), "  and those of the target that is planned"]
    if target.settings == "train":
        notes = _comments(CONFIGS / "train" / "tiny.yaml")
        scale, recipe = compose_recipe(target, [])
        values: dict[str, Any] = {"scale": scale, **recipe}
        values = {key: value for key, value in values.items() if not isinstance(value, DictConfig)}
        return [_line(key, value, notes) for key, value in values.items()] + ["  (configs/train/SCALE.yaml has all)"]
    if target.settings not in ("cells", "cell"):
        return [_line(key, value, notes) for key, value in compose_settings(target, []).model_dump().items()]
    config = compose_experiment(target.name)
    sweep, lines = config.get("sweep", {}), []
    for group in GROUPS:
        default = config["scale_name"] if group == "scale" else sweep.get(group, config[group]["name"])
        lines.append(_line(group, default, {group: f"one of: {', '.join(choices(group))}"}))
    of_target = SETTINGS[target.cell].model_fields.keys() - Cell.model_fields.keys()
    typed = [name for name in config if name in of_target and not isinstance(config[name], dict)]
    known = [*RunSettings.model_fields, *typed]
    lines += [_line(key, sweep.get(key, config[key]), notes) for key in known]
    return [
        *lines,
        "  method.KEY        settings of the chosen method (also policy, reward, task): configs/GROUP/NAME.yaml",
    ]


def _line(key: str, value: Any, notes: dict[str, str]) -> str:
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    shown = "{...}" if isinstance(value, dict) else shown.replace("'", "")
    return f"  {key:<20} {shown:<14}  {notes.get(key, '')}".rstrip()


def _comments(path: Path) -> dict[str, str]:
    """Return the comment beside each top-level key of a YAML file."""
    return dict(COMMENT.findall(path.read_text(encoding="utf-8")))
