"""The control that every comparison needs: no unlearning at all."""

from __future__ import annotations

from typing import ClassVar

from ssiuu.methods.base import Edit, Origin


class NoUnlearning(Edit):
    """The original model, judged and attacked like every other."""

    name: ClassVar[str] = "none"
    origin: ClassVar[Origin] = "control"
    source: ClassVar[str] = "Control."
    summary: ClassVar[str] = "No unlearning: the original model"
    trains: ClassVar[bool] = False
