"""Recipe of the models of scale=unseen: that of scale=tiny, on task families for which no setting was chosen."""

from .tiny import stages_of, train

__all__ = ["stages_of", "train"]
