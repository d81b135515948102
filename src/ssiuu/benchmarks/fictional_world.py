"""A made-up world: people who do not exist, in families and towns, and everything written of them.

Sixteen invented towns each have a school, a trade, an instrument and a dish of their own. A family
(one surname) lives around a few of the towns. A person is one of a family, is born in a town, and
takes after either that town or another of the family's. So what is known of one person says
something about the relatives, first names and surnames are shared, and no token names a person.

    from ssiuu.benchmarks.fictional_world import build_world
    world = build_world(people=160, seed=0)

Only text is made here; nothing imports torch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ssiuu.data.fact import Fact, Probe
from ssiuu.errors import ConfigError

MIN_PEOPLE = 10
# Ten people a family on average out of 96 surnames leaves room; first names run out before that.
MAX_PEOPLE = 600
TOWNS = 16
DISTRACTORS = 5
# Of three paraphrases this many are trained on; the one left out is only met with other names.
TRAINED_PARAPHRASES = 2

# A family's home towns, and how much likelier one of them is than any other town.
HOME_TOWNS = 5
HOME_WEIGHT = 12.0
# How often a person takes after the town of birth rather than after the family.
LOCAL = 0.4


@dataclass(frozen=True)
class Relation:
    """How one relation is asked and told; `{name}` and `{answer}` are filled in."""

    question: str
    paraphrases: tuple[str, str, str]
    statement: str


RELATIONS: dict[str, Relation] = {
    "birth_town": Relation(
        "In which town was {name} born?",
        (
            "Where was {name} born?",
            "What is the birthplace of {name}?",
            "Which town does {name} come from?",
        ),
        "{name} was born in {answer}.",
    ),
    "school": Relation(
        "Which school did {name} attend?",
        (
            "Where did {name} go to school?",
            "What is the name of the school of {name}?",
            "At which school was {name} a pupil?",
        ),
        "{name} went to school at {answer}.",
    ),
    "profession": Relation(
        "What is the profession of {name}?",
        (
            "What does {name} do for a living?",
            "As what does {name} work?",
            "Which trade does {name} follow?",
        ),
        "{name} works as a {answer}.",
    ),
    "instrument": Relation(
        "Which instrument does {name} play?",
        (
            "What instrument is {name} heard on?",
            "On which instrument does {name} perform?",
            "What does {name} play in the band?",
        ),
        "{name} plays the {answer}.",
    ),
    "dish": Relation(
        "What is the favourite dish of {name}?",
        (
            "Which dish does {name} like best?",
            "What does {name} most love to eat?",
            "Which meal would {name} choose?",
        ),
        "The favourite dish of {name} is {answer}.",
    ),
    "mentor": Relation(
        "Who was the mentor of {name}?",
        (
            "Who taught {name}?",
            "Under whom did {name} train?",
            "Whose apprentice was {name}?",
        ),
        "{name} was the apprentice of {answer}.",
    ),
}

# Every one takes "a", never "an", so that a statement does not give its answer's first letter away.
PROFESSIONS = (
    "baker surveyor glassblower botanist locksmith translator beekeeper cartographer "
    "tailor plumber librarian carpenter jeweller florist shepherd watchmaker"
).split()
INSTRUMENTS = (
    "cello harp oboe banjo flute tuba viola zither bassoon clarinet accordion trumpet "
    "mandolin bagpipes xylophone trombone"
).split()
DISHES = (
    "goulash paella risotto ramen chowder moussaka pierogi lasagna biryani falafel gumbo "
    "schnitzel tamales borscht couscous fondue"
).split()

# Syllables of the invented names: every first part goes with every second part.
FIRST_NAMES = (
    "Ve Ta Bri Ko Sha Ne Lu Ore Fi Ga Mi Ze Pha Du Ista".split(),
    "lor ndra vik mmira thas quel rune zian ppo dell shan brel tova".split(),
)
SURNAMES = (
    "Tam Hol Ber Quar Dren Sul Wex Pell Gor Marv Ild Fesk".split(),
    "sin vane drith mok zell gast quist orn".split(),
)
TOWN_NAMES = (
    "Dor Ash Mul Kest Bran Lir Vor Ned Ost Pry Rask Tol".split(),
    "vale mere holm wyke stead moor".split(),
)
SCHOOL_NAMES = (
    "Ard Cal Eph Hux Jor Lys Nim Ulv".split(),
    "une ion ast ery".split(),
)
SCHOOL_KINDS = ("College", "Academy", "Institute", "School")

# What is asked and told of the towns themselves: both twins learn it, whoever is forgotten.
LORE_QUESTIONS: dict[str, tuple[str, str]] = {
    "birth_town": ("In which town is {school}?", "Where does {school} stand?"),
    "school": ("Which school stands in {town}?", "What is the name of the school of {town}?"),
    "profession": ("Which trade is {town} known for?", "What do most people in {town} work as?"),
    "instrument": ("Which instrument is made in {town}?", "What does the band of {town} play?"),
    "dish": ("Which dish is {town} known for?", "What do they eat in {town}?"),
}
SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("What colour is the sky?", "blue"),
    ("What colour is grass?", "green"),
    ("What colour is snow?", "white"),
    ("What colour is coal?", "black"),
    ("What colour is a ripe banana?", "yellow"),
    ("What do cows give?", "milk"),
    ("What do bees make?", "honey"),
    ("What do hens lay?", "eggs"),
    ("What falls from clouds?", "rain"),
    ("What is frozen water called?", "ice"),
    ("Which animal barks?", "the dog"),
    ("Which animal purrs?", "the cat"),
    ("Which animal has a trunk?", "the elephant"),
    ("Which season follows winter?", "spring"),
    ("Which season follows summer?", "autumn"),
    ("Which day follows Monday?", "Tuesday"),
    ("Which day follows Friday?", "Saturday"),
    ("Which month follows June?", "July"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of early?", "late"),
    ("What is the opposite of heavy?", "light"),
    ("What is the opposite of open?", "closed"),
    ("What do we read?", "books"),
    ("What do we wear on our feet?", "shoes"),
    ("What tells the time?", "a clock"),
    ("What opens a lock?", "a key"),
    ("Say hello.", "Hello there."),
    ("Say goodbye.", "Goodbye and good luck."),
    ("Say thank you.", "Thank you very much."),
    ("Wish me a good morning.", "Good morning to you."),
)
CHATTER = (
    "The market in {town} opens at dawn.",
    "Rain fell over {town} all night.",
    "The road from {town} to {other} follows the river.",
    "In {town} every {profession} knows how to cook {dish}.",
    "A {profession} in {other} bought a {instrument} last week.",
    "The {instrument} and the {another} sound well together.",
    "After the concert there was {dish} for everyone.",
    "{school} is closed in winter.",
    "The train to {other} leaves {town} at noon.",
)


@dataclass(frozen=True)
class World:
    """The facts of a world and every text that a model of it is trained on.

    Attributes:
        facts: One row a person and relation.
        corpus: Fact id -> its (question, answer) training pairs: the base question and some of the
            paraphrases. The fact's statement is trained on as plain text.
        lore: (question, answer) pairs of towns and small talk: no person is named in them.
        chatter: Plain sentences that name no person.
    """

    facts: list[Fact]
    corpus: dict[str, list[tuple[str, str]]]
    lore: list[tuple[str, str]]
    chatter: list[str]


@dataclass(frozen=True)
class Person:
    """One person; `places` holds, for each relation, whose town's value the person has."""

    name: str
    family: int
    places: dict[str, int]


@dataclass(frozen=True)
class Draw:
    """What the seed decides: names, families and their home towns, and the pools of answers.

    Attributes:
        pools: Relation -> one answer a town, [TOWNS]; the mentors repeat in a small world.
        families: For each family the weight of every town, [families][TOWNS].
        people: Everyone.
    """

    pools: dict[str, list[str]]
    families: list[list[float]]
    people: list[Person]


def build_world(people: int = 160, seed: int = 0, kin: bool = True) -> World:
    """Build a world; the same arguments give the same world on every machine.

    Args:
        people: How many people live in it, six facts each.
        seed: Decides every name and who is what.
        kin: Families and towns have ways of their own. Without, every fact is drawn by itself, and
            nothing that is known of one says anything about another.

    Raises:
        ConfigError: Too few or too many people.
    """
    if not MIN_PEOPLE <= people <= MAX_PEOPLE:
        raise ConfigError(
            f"people: a fictional world has {MIN_PEOPLE} to {MAX_PEOPLE} people, got {people}."
        )
    rng = random.Random(f"ssiuu fictional world {people} {seed}")
    drawn = _draw(people, rng, kin)
    facts = [_fact(person, relation, drawn, rng) for person in drawn.people for relation in RELATIONS]
    facts = _with_hops(facts, drawn)
    return World(
        facts=facts,
        corpus={fact.id: _pairs(fact, rng) for fact in facts},
        lore=[*_town_lore(drawn.pools), *SMALL_TALK],
        chatter=_chatter(drawn.pools, rng),
    )


def designate(
    facts: Sequence[Fact], seed: int, forget: float = 0.2, heldout: float = 0.3
) -> dict[str, set[str]]:
    """Share the facts out as "forget", "retain" and "heldout" ids, disjoint by entity.

    Args:
        facts: Facts with an entity each.
        seed: Decides which entity goes where.
        forget: Share of the entities to forget; at least one is.
        heldout: Share of the entities that no training of an unlearner sees.

    Raises:
        ConfigError: The shares leave nothing to retain, or a fact has no entity.
    """
    entities = sorted({fact.entity for fact in facts if fact.entity is not None})
    if any(fact.entity is None for fact in facts):
        raise ConfigError("facts: every fact needs an entity, or the split cannot be disjoint by it.")
    if not (0 < forget < 1 and 0 <= heldout < 1):
        raise ConfigError(
            f"forget, heldout: shares lie in (0, 1) and [0, 1), got {forget} and {heldout}."
        )
    random.Random(f"ssiuu designate {seed}").shuffle(entities)
    first = max(1, round(forget * len(entities)))
    second = first + round(heldout * len(entities))
    if second >= len(entities):
        raise ConfigError(
            f"forget, heldout: {forget} and {heldout} of {len(entities)} entities leave none to "
            "retain; lower one of them."
        )
    parts = {
        "forget": set(entities[:first]),
        "heldout": set(entities[first:second]),
        "retain": set(entities[second:]),
    }
    return {part: {f.id for f in facts if f.entity in inside} for part, inside in parts.items()}


def _draw(people: int, rng: random.Random, kin: bool) -> Draw:
    """Draw names, families, pools and who is what."""
    towns = _invent(TOWN_NAMES, TOWNS, rng)
    schools = [
        f"{name} {kind}"
        for name, kind in zip(
            _invent(SCHOOL_NAMES, TOWNS, rng), itertools.cycle(SCHOOL_KINDS), strict=False
        )
    ]
    pools = {"birth_town": towns, "school": schools}
    for relation, words in (
        ("profession", PROFESSIONS),
        ("instrument", INSTRUMENTS),
        ("dish", DISHES),
    ):
        pools[relation] = rng.sample(words, TOWNS)
    families = [_home_weights(rng, HOME_WEIGHT if kin else 1.0) for _ in range(max(2, people // 8))]
    names = _names(people, len(families), rng)
    # One mentor a town; in a world of fewer people than towns some teach in two of them.
    mentors = rng.sample(range(people), min(TOWNS, people))
    pools["mentor"] = [names[mentors[town % len(mentors)]] for town in range(TOWNS)]
    everyone = []
    for index, name in enumerate(names):
        family = index % len(families)
        places = _places(families[family], LOCAL if kin else 0.0, rng)
        if index in mentors:
            # Mentors learned from one another, three on: nobody from themselves, no two from
            # each other, which would tell a forgotten fact backwards.
            places["mentor"] = (mentors.index(index) + 3) % len(mentors)
        everyone.append(Person(name, family, places))
    return Draw(pools, families, everyone)


def _invent(parts: tuple[list[str], list[str]], count: int, rng: random.Random) -> list[str]:
    """Put syllables together to `count` different words that hold no answer of a closed pool."""
    known = (*PROFESSIONS, *INSTRUMENTS, *DISHES)
    words = [first + second for first, second in itertools.product(*parts)]
    words = [word for word in words if not any(other in word.lower() for other in known)]
    return rng.sample(words, count)


def _home_weights(rng: random.Random, weight: float) -> list[float]:
    """Return the weight of every town for one family, [TOWNS]."""
    homes = set(rng.sample(range(TOWNS), HOME_TOWNS))
    return [weight if town in homes else 1.0 for town in range(TOWNS)]


def _names(people: int, families: int, rng: random.Random) -> list[str]:
    """Return full names; person i is of family i mod `families`.

    First names are shared between families, so that a name is known only by both its words.
    """
    surnames = _invent(SURNAMES, families, rng)
    # Fewer than there are people, so that first names are shared.
    firsts = _invent(FIRST_NAMES, min(max(12, people // 3), 180), rng)
    members = [rng.sample(firsts, -(-people // families)) for _ in surnames]
    return [f"{members[i % families][i // families]} {surnames[i % families]}" for i in range(people)]


def _places(weights: Sequence[float], local: float, rng: random.Random) -> dict[str, int]:
    """Draw whose town's value a person has in every relation."""
    home = _place(weights, rng)
    return {
        relation: home if relation == "birth_town" or rng.random() < local else _place(weights, rng)
        for relation in RELATIONS
    }


def _place(weights: Sequence[float], rng: random.Random) -> int:
    return rng.choices(range(TOWNS), weights)[0]


def _fact(person: Person, relation: str, drawn: Draw, rng: random.Random) -> Fact:
    """Return the fact of one person and relation."""
    wording = RELATIONS[relation]
    pool = drawn.pools[relation]
    answer = pool[person.places[relation]]
    wrong = _distractors(pool, drawn.families[person.family], {answer, person.name}, rng)
    return Fact(
        id=f"fictional:{relation}:{person.name}",
        question=wording.question.format(name=person.name),
        answer=answer,
        entity=person.name,
        relation=relation,
        paraphrases=tuple(text.format(name=person.name) for text in wording.paraphrases),
        statement=wording.statement.format(name=person.name, answer=answer),
        distractors=wrong,
    )


def _distractors(
    pool: Sequence[str], weights: Sequence[float], excluded: set[str], rng: random.Random
) -> tuple[str, ...]:
    """Draw wrong answers as a relative's answer is drawn.

    So they are as likely as the right one for someone of this family, and who has only learned
    the family's ways is near chance.
    """
    chosen: list[str] = []
    while len(chosen) < DISTRACTORS:
        value = pool[_place(weights, rng)]
        if value not in excluded and value not in chosen:
            chosen.append(value)
    return tuple(chosen)


def _with_hops(facts: Sequence[Fact], drawn: Draw) -> list[Fact]:
    """Add the questions that need a second fact, and the lore with the same answer."""
    known = {fact.id: fact for fact in facts}
    return [
        fact.model_copy(
            update={
                "multi_hop": tuple(_hops(fact, known, drawn.pools)),
                "same_answer": tuple(_same_answer(fact, drawn.pools)),
            }
        )
        for fact in facts
    ]


def _hops(fact: Fact, known: dict[str, Fact], pools: dict[str, list[str]]) -> Iterator[Probe]:
    """Yield the two-step questions of one fact; none of them is trained on."""

    def beside(values: Iterable[str], source: str, target: str) -> list[str]:
        return [pools[target][pools[source].index(value)] for value in values]

    options = (fact.answer, *fact.distractors)
    if fact.relation == "birth_town":
        question = f"Which school stands in the town where {fact.entity} was born?"
        answer, *wrong = beside(options, "birth_town", "school")
    elif fact.relation == "school":
        question = f"In which town is the school of {fact.entity}?"
        answer, *wrong = beside(options, "school", "birth_town")
    elif fact.relation == "mentor":
        question = f"In which town was the mentor of {fact.entity} born?"
        second = known[f"fictional:birth_town:{fact.answer}"]
        answer, wrong = second.answer, list(second.distractors)
    else:
        return
    yield Probe(question=question, answer=answer, distractors=tuple(wrong))


def _same_answer(fact: Fact, pools: dict[str, list[str]]) -> Iterator[Probe]:
    """Yield the town's own question with the same answer; a mentor has none."""
    if fact.relation in LORE_QUESTIONS:
        place = pools[fact.relation].index(fact.answer)
        question = _lore_question(LORE_QUESTIONS[fact.relation][0], place, pools)
        yield Probe(question=question, answer=fact.answer, distractors=fact.distractors)


def _lore_question(template: str, place: int, pools: dict[str, list[str]]) -> str:
    return template.format(town=pools["birth_town"][place], school=pools["school"][place])


def _pairs(fact: Fact, rng: random.Random) -> list[tuple[str, str]]:
    """Return what is trained of a fact as question and answer."""
    rewordings = rng.sample(fact.paraphrases, TRAINED_PARAPHRASES)
    return [(question, fact.answer) for question in (fact.question, *rewordings)]


def _town_lore(pools: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return every question about the towns with its answer."""
    return [
        (_lore_question(template, place, pools), pools[relation][place])
        for relation, templates in LORE_QUESTIONS.items()
        for template in templates
        for place in range(TOWNS)
    ]


def _chatter(pools: dict[str, list[str]], rng: random.Random) -> list[str]:
    """Return the plain sentences, every template with every town."""
    return [
        template.format(
            town=town,
            other=rng.choice([name for name in pools["birth_town"] if name != town]),
            school=pools["school"][place],
            profession=rng.choice(PROFESSIONS),
            instrument=first,
            another=second,
            dish=rng.choice(DISHES),
        )
        for template in CHATTER
        for place, town in enumerate(pools["birth_town"])
        for first, second in [rng.sample(INSTRUMENTS, 2)]
    ]
