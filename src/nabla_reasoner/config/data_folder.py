"""Where the files that are not code lie: in the repository, or inside the installed package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SCRIPT = "./reproduce.sh"  # the command line in the repository
PROGRAM = "nabla-reasoner"  # the command line of an installed package


def repository() -> Path | None:
    """Return the repository's folder if this code runs from a checkout; None for an installed package."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "src" and (root / "configs" / "config.yaml").is_file() else None


def data_folder() -> Path:
    """Return the folder that holds `configs/`, `assets/` and `docs/`: the repository, or `_data/` in the package."""
    return repository() or PACKAGE / "_data"


def locate(path: str) -> str:
    """Return a path relative to here or, where that does not exist, to the data folder.

    A name that is found in neither, such as one on the hub, is returned as it is.
    """
    shipped = data_folder() / path
    return str(shipped) if not Path(path).exists() and shipped.exists() else path


def needs_repository(what: str) -> None:
    """Raise ValueError if this is no checkout: `what` reads or writes files that no wheel has."""
    if repository() is None:
        raise ValueError(
            f"{what} needs the repository, with its figures/ and notebooks/; got the package installed in {PACKAGE}. "
            "Clone the repository and use its reproduce.sh."
        )


def spelled(text: str) -> str:
    """Return a text that names commands, with the command line that there is: outside a checkout, no reproduce.sh."""
    return text if repository() else text.replace(SCRIPT, PROGRAM)
