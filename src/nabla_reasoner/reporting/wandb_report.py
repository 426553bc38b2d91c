"""Publishing of the report as a W&B Report, with its figures in a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import wandb_log, wandb_runs, wandb_upload
from .html_report import Block, Figure, Heading, markdown
from .wandb_log import PROJECT

__all__ = ["PublishingError", "publish", "wandb_blocks"]
SECONDS = 20  # time that the server has to answer
GROUP = "report"


class PublishingError(Exception):
    """Nothing was published; the message says in a line why, and what to do."""


def login() -> str:
    """Ask the server which entity is logged in.

    Raises:
        PublishingError: there is no key, the key is refused, or the server cannot be reached.
    """
    wandb = wandb_log.import_wandb()
    address = wandb_upload.server_address()
    try:
        wandb_upload.check_server(address)  # first, because wandb would retry for minutes
    except wandb_upload.UploadError as error:
        raise PublishingError(f"{error}. Run the same command again with a network.") from error
    try:
        return wandb.Api(timeout=SECONDS).default_entity
    except wandb.errors.UsageError as error:
        raise PublishingError(
            "no W&B key. Run `wandb login`, or set WANDB_API_KEY, and run the same command again."
        ) from error
    except Exception as error:
        raise PublishingError(
            f"{address} refused the key ({_line(error)}). Run `wandb login --relogin`, or set another WANDB_API_KEY."
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def wandb_blocks(blocks: Sequence[Block], entity: str) -> list[Any]:
    """Convert blocks to those of `wandb_workspaces.reports.v2`; figures are panels of the run that has them."""
    import wandb_workspaces.reports.v2 as wr

    headings = {2: wr.H1, 3: wr.H2}
    converted: list[Any] = [wr.TableOfContents()]
    for block in blocks:
        match block:
            case Heading(1, _):
                continue  # the W&B Report has a title of its own
            case Heading(level, text):
                converted.append(headings.get(level, wr.H3)(text))
            case Figure(path, _):
                runs = wr.Runset(entity, PROJECT, name="report", filters=f'Metric("Group") == "{GROUP}"')
                panel = wr.MediaBrowser(title=path.stem, media_keys=[f"figures/{path.stem}"], num_columns=1)
                panel.layout = wr.Layout(x=0, y=0, w=24, h=14)
                converted.append(wr.PanelGrid(runsets=[runs], panels=[panel], hide_run_sets=True))
                converted.append(wr.MarkdownBlock(markdown(block)))
            case _:
                converted.append(wr.MarkdownBlock(markdown(block)))
    return converted


def publish(blocks: Sequence[Block], folder: Path, *, scale: str) -> str:
    """Save a W&B Report, with its figures in a run of group "report", and return its link.

    Args:
        blocks: the first heading is the title.
        folder: folder of the run's local files.
        scale: a tag, and part of the run's name.

    Raises:
        PublishingError: not logged in, server not reached, or an error while saving.
    """
    entity = login()
    title = next(block.text for block in blocks if isinstance(block, Heading))
    name = f"report-{scale}"
    entry = wandb_log.WandbRun(
        identity=wandb_log.identity([name], None),
        name=name,
        job_type="report",
        config={"scale": scale},
        figures={block.path.stem: block.path for block in blocks if isinstance(block, Figure)},
    )
    try:
        import wandb_workspaces.reports.v2 as wr

        wandb_runs.replace_run(entry, folder, experiment=GROUP, scale=scale)
        wandb_upload.upload(wandb_runs.run_folders(entry, folder))
        report = wr.Report(
            project=PROJECT,
            entity=entity,
            title=title,
            width="fluid",
            blocks=wandb_blocks(blocks, entity),
            description=f"Replication of arXiv 2603.04948, scale={scale}. Made by ./reproduce.sh report.",
        )
        report.save()
        return report.url
    except Exception as error:
        raise PublishingError(f"{type(error).__name__}: {_line(error)}. Run the same command again.") from error
