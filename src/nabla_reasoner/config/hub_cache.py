"""Commits of models and data sets in the local cache of the Hugging Face hub."""

from pathlib import Path


def is_hub_name(name: str) -> bool:
    """Return whether a name is OWNER/NAME on the hub, and no folder here."""
    name = name.partition("@")[0]
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def commit(name: str, kind: str) -> str | None:
    """Return the commit that a hub name is pinned to, or the newest in the local cache; None if that holds none.

    The latter is the one that a run loads, online after its download and offline.

    Args:
        name: OWNER/NAME, or OWNER/NAME@COMMIT.
        kind: "models" or "datasets".
    """
    if not is_hub_name(name):
        return None
    name, _, pinned = name.partition("@")
    if pinned:
        return pinned
    from huggingface_hub import constants  # imported late: most runs name no hub

    folder = Path(constants.HF_HUB_CACHE, f"{kind}--{name.replace('/', '--')}")
    snapshots = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    main = folder / "refs" / "main"
    if main.is_file() and folder / "snapshots" / main.read_text(encoding="utf-8").strip() in snapshots:
        return main.read_text(encoding="utf-8").strip()
    return max(snapshots, key=lambda path: path.stat().st_mtime_ns).name if snapshots else None
