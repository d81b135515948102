"""How far an attack gets: its settings, each with the highest points of its curves.

A setting is what an attacker may choose beside the attack (learning rate, and what is trained); it has
a curve a seed. An attack's level is that of its best setting: the highest point of every curve after
place 0, a mean over the common pool, averaged over the seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from ssiuu.analysis.column import Item, Model, Outcomes, never_learned
from ssiuu.analysis.scale import RANKING, Scale, level, mean
from ssiuu.analysis.verdict import ranking, way_back
from ssiuu.records.schema import AttackCurve, RunRecord, Space


class Point(NamedTuple):
    """One reading of a curve: its place and the level there."""

    attack: AttackCurve
    place: int
    level: float


class Setting(NamedTuple):
    """What an attacker may choose, and the highest point of each of its curves."""

    name: str
    learning_rate: float | None
    space: Space
    points: tuple[Point, ...]

    @property
    def level(self) -> float:
        """The mean over the attack's seeds."""
        return sum(point.level for point in self.points) / len(self.points)


def attack_names(record: RunRecord) -> list[str]:
    """Return the attacks of a run in their order: harmful by fraction, then the others.

    Those that bring back values alone (membership inference) have no level and are not among them.
    """
    attacks = [attack for cell in record.cells for attack in cell.attacks]
    by_name = {attack.name: attack for attack in attacks if attack.scored != "values"}
    return sorted(by_name, key=lambda n: (by_name[n].fraction is None, by_name[n].fraction or 0.0, n))


def of_name(attacks: Iterable[AttackCurve], name: str) -> list[AttackCurve]:
    """Return the curves of an attack."""
    return [attack for attack in attacks if attack.name == name]


def settings(
    attacks: Iterable[AttackCurve], pool: Collection[str], scale: Scale = RANKING
) -> list[Setting]:
    """Return every setting that was scored.

    A curve that diverged before its first reading counts with the model as it was.
    """
    tops: dict[tuple[str, float | None, Space], list[Point]] = {}
    for attack in attacks:
        if point := _top(attack, pool, scale):
            tops.setdefault((attack.name, attack.learning_rate, attack.space), []).append(point)
    return [Setting(*key, tuple(points)) for key, points in tops.items()]


def _top(attack: AttackCurve, pool: Collection[str], scale: Scale) -> Point | None:
    """Return the highest point of a curve; that of place 0 only where nothing follows."""
    places = range(1, len(attack.reads)) or range(len(attack.reads))
    points = [
        Point(attack, place, height)
        for place in places
        if (height := level(attack, place, pool, scale)) is not None
    ]
    return max(points, key=lambda point: point.level, default=None)


def strongest_setting(
    attacks: Iterable[AttackCurve], pool: Collection[str], scale: Scale = RANKING
) -> Setting | None:
    """Return the setting with the highest level; None where none was scored."""
    return max(settings(attacks, pool, scale), key=lambda setting: setting.level, default=None)


def strongest_attacker(model: Model, scale: Scale) -> Setting | None:
    """Return the strongest setting of all attacks that are read by the ranking or the run's score."""
    return strongest_setting(ranking(model.cell.attacks), model.pool, scale)


def looks(attacks: Iterable[AttackCurve], name: str) -> int:
    """Return the number of settings that an attack's was picked from, at least 1."""
    return len({(attack.learning_rate, attack.space) for attack in of_name(attacks, name)}) or 1


def attacked(model: Model, name: str, scale: Scale, pool: Collection[str] | None = None) -> Outcomes:
    """Return what each fact scores at the highest points of an attack's best setting, by attack seed.

    Facts that are not scored at all of these points are left out.
    """
    pool = model.pool if pool is None else pool
    best = strongest_setting(of_name(model.cell.attacks, name), pool, scale)
    points = best.points if best else ()
    levels: dict[Item, dict[int, float]] = {}
    for attack, place, _ in points:
        readings = attack.reads[place].facts
        for fact in pool:
            value = scale.read(readings[fact]) if fact in readings else None
            if value is not None:
                levels.setdefault((fact, 0), {})[attack.seed] = float(value)
    return {item: values for item, values in levels.items() if len(values) == len(points)}


def peak(model: Model, name: str, scale: Scale, pool: Collection[str] | None = None) -> float | None:
    """Return the level of an attack over these facts; None: the common pool."""
    attacks = of_name(model.cell.attacks, name)
    best = strongest_setting(attacks, model.pool if pool is None else pool, scale)
    return best.level if best else None


def share_back(model: Model, name: str, scale: Scale) -> float | None:
    """Return (level - unlearned) / (original - unlearned); None where nothing was lost."""
    attack = next(iter(of_name(model.cell.attacks, name)), None)
    top, original = peak(model, name, scale), model.record.original
    if attack is None or top is None or original is None:
        return None
    before = mean(scale.before(original.forget[i]) for i in model.pool if i in original.forget)
    after = level(attack, 0, model.pool, scale)
    return None if before is None or after is None else way_back(before, after, top)


def over_control(model: Model, name: str, scale: Scale) -> float | None:
    """Return the level less the never-learned control's under the same attack, or less chance.

    Chance is that of ranking, so other scales have no such substitute.
    """
    top = peak(model, name, scale)
    floor = model.record.header.chance if scale.chance else None
    twin = never_learned(model.record, model.cell.seed)
    if twin is not None and model.cell.method.name != "never-learned":
        floor = peak(Model(model.record, twin, model.within), name, scale)
    return None if top is None or floor is None else top - floor
