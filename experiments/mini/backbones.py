"""The shipped backbones as a run names them.

`experiments.mini.pretrain` makes them; a run reads them like any other pretrained model.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.data.sources import Source
from experiments.mini.source import Mini
from experiments.models.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class Shipped(Pretrained):
    """A backbone that comes with the project; `path` puts a rebuilt one in its place."""

    def doubt(self, data: Source) -> str | None:
        if isinstance(data, Mini):
            return None
        return (
            f"{self.name} knows only the made-up language of the built-in data (data=mini); on "
            "other texts its scores say little about a method. Choose a pretrained model: "
            "conf/model has some."
        )

    def folder(self) -> Path:
        # Elsewhere a path can be a hub's too; here one that is no folder is a mistake.
        if self.path and self.package:
            return replace(self, package=None).folder()
        return super().folder()
