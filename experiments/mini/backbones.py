"""The shipped backbones as a run names them.

`experiments.mini.pretrain` makes them; a run reads them like any other pretrained model.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.models.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class Shipped(Pretrained):
    """A backbone that comes with the project; `path` puts a rebuilt one in its place."""

    def folder(self) -> Path:
        # Elsewhere a path can be a hub's too; here one that is no folder is a mistake.
        if self.path and self.package:
            return replace(self, package=None).folder()
        return super().folder()
