"""Ways to hide facts that a model knows, by construction: what knew them is left in place.

They show what an audit can see: on a copy of a model some of its facts are hidden, and it has to find
them. `HIDING` is the list of them; each is a class of one file (`ssiuu.hiding.base`).
"""

from __future__ import annotations

from ssiuu.hiding.attention import Attention
from ssiuu.hiding.base import Hidden, Hiding, Subject
from ssiuu.hiding.entity import Entity
from ssiuu.hiding.last_map import LastMap
from ssiuu.hiding.logits import Logits
from ssiuu.hiding.middle_map import MiddleMap
from ssiuu.hiding.refusal import Refusal
from ssiuu.hiding.wording import Wording

__all__ = ["HIDING", "Hidden", "Hiding", "Subject"]

HIDING: dict[str, type[Hiding]] = {
    kind.name: kind for kind in (LastMap, MiddleMap, Attention, Refusal, Wording, Logits, Entity)
}
