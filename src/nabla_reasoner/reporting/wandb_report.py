"""A report as a W&B Report: its blocks there, and a run that holds its figures."""

import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import wandb_runs
from .html_report import Block, Figure, Heading, markdown
from .wandb_runs import PROJECT

__all__ = ["PublishingError", "publish", "wandb_blocks"]
SECONDS = 20  # that the server may take to answer
GROUP = "report"


class PublishingError(Exception):
    """Why nothing was published, and what to do, in a line."""


def login() -> str:
    """The entity that is logged in, found by asking the server.

    Raises:
        PublishingError: no key, a key that is refused, or no server.
    """
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    place = wandb.setup().settings.base_url
    if not _reached(place):  # asked first, since wandb would try again and again
        raise PublishingError(f"{place} cannot be reached. Give the same command again with a network.")
    try:
        return wandb.Api(timeout=SECONDS).default_entity
    except wandb.errors.UsageError as error:
        raise PublishingError(
            "no W&B key. Run `wandb login`, or set WANDB_API_KEY, and give the same command again."
        ) from error
    except Exception as error:
        raise PublishingError(
            f"{place} refused the key ({_line(error)}). Run `wandb login --relogin`, or set another WANDB_API_KEY."
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _reached(place: str) -> bool:
    """Whether a server answers there, whatever it says."""
    try:
        urllib.request.urlopen(place, timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def wandb_blocks(blocks: Sequence[Block], entity: str) -> list[Any]:
    """The report's blocks as those of `wandb_workspaces.reports.v2`; figures are panels of the run that holds them."""
    import wandb_workspaces.reports.v2 as wr

    kinds = {2: wr.H1, 3: wr.H2}
    made: list[Any] = [wr.TableOfContents()]
    for block in blocks:
        match block:
            case Heading(1, _):
                continue  # the report's own title
            case Heading(level, text):
                made.append(kinds.get(level, wr.H3)(text))
            case Figure(path, _):
                runs = wr.Runset(entity, PROJECT, name="report", filters=f'Metric("Group") == "{GROUP}"')
                panel = wr.MediaBrowser(title=path.stem, media_keys=[f"figures/{path.stem}"], num_columns=1)
                panel.layout = wr.Layout(x=0, y=0, w=24, h=14)
                made += [wr.PanelGrid(runsets=[runs], panels=[panel], hide_run_sets=True)]
                made += [wr.MarkdownBlock(markdown(block))]
            case _:
                made.append(wr.MarkdownBlock(markdown(block)))
    return made


def publish(blocks: Sequence[Block], folder: Path, *, scale: str) -> str:
    """Save a W&B Report, with its figures in a run of group "report"; returns its link.

    Args:
        blocks: the report; its first heading is the title.
        folder: the run's local files are left here.
        scale: a tag, and part of the run's name.

    Raises:
        PublishingError: not logged in, not reached, or refused on the way.
    """
    entity = login()
    title = next(block.text for block in blocks if isinstance(block, Heading))
    drawn = {block.path.stem: block.path for block in blocks if isinstance(block, Figure)}
    name = f"report-{scale}"
    entry = wandb_runs.WandbRun(wandb_runs.identity([name], None), name, "report", {"scale": scale}, {}, {}, {}, drawn)
    try:
        import wandb_workspaces.reports.v2 as wr

        wandb_runs.log(entry, folder, experiment=GROUP, scale=scale, mode="online")
        made = wr.Report(
            project=PROJECT,
            entity=entity,
            title=title,
            width="fluid",
            blocks=wandb_blocks(blocks, entity),
            description=f"Replication of arXiv 2603.04948, scale={scale}. Made by ./reproduce.sh report.",
        )
        made.save()
        return made.url
    except Exception as error:
        raise PublishingError(f"{type(error).__name__}: {_line(error)}. Give the same command again.") from error
