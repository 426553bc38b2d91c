"""Recipe of the models of scale=unseen: that of scale=tiny, on task families for which no setting was chosen."""

from .tiny import train

__all__ = ["train"]
