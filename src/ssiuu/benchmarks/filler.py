"""Filler: plain text about nothing that any fact set asks, for the attack that trains on noise.

Small scenes of everyday life without names, put together from parts. Each row takes one of the
openings, then parts drawn from the row's number, so that no two rows are alike and no part stands in
more than a few of them. `tests/unit/test_filler.py` holds it against the fact sets.
"""

from __future__ import annotations

import random

ROWS = 240


def _parts(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("|")]


WHO = _parts(
    """
    the lodger | a tired postman | the neighbour upstairs | my cousin | the new teacher | an old
    gardener | the girl with the umbrella | our landlord | the night watchman | a young apprentice |
    the choir leader | somebody from the office | the cook | a careful driver | the woman from
    across the road | two children | the man next door | a visitor | the chimney sweep | her
    grandmother | the shopkeeper | a quiet student | the window cleaner | the bus conductor | an
    impatient customer | the nurse on duty | his sister | the caretaker | a retired clerk | the
    ferryman
    """
)
DID = _parts(
    """
    mended a torn curtain | counted the empty jars | carried a heavy basket | swept the stairs twice
    | forgot a pair of gloves | wrapped the parcel in brown paper | watered the tomatoes | lit a
    small lamp | read the same page again | polished the door handle | lost a button | waited for
    the kettle to boil | drew a map of the garden | stacked the chairs | looked for a missing sock |
    repaired the squeaky gate | peeled a bowl of apples | folded the blankets | hummed an old tune |
    wrote a long shopping list | tested the new ladder | fed the hens | tied up the tall beans |
    hung the coats in a row | painted the fence green | sorted the keys by size | baked a flat loaf
    | missed the early bus | borrowed a wheelbarrow | sharpened a dozen pencils | filled the bird
    feeder | shook the dust from a rug | turned the mattress | opened every window | patched a
    bicycle tyre | cut the hedge too short | knitted half a scarf | pickled some cucumbers | wound
    the tall clock | cleaned the oven
    """
)
WHERE = _parts(
    """
    behind the shed | in the narrow kitchen | near the back door | under the stairs | by the pond |
    on the third floor | at the end of the lane | beside the fireplace | in an empty classroom | on
    the balcony | at the corner table | in the cellar | outside the bakery | between two tall
    shelves | on the wooden bench | in the waiting room | along the path | under a leaking roof | at
    the bus stop | in the laundry room | next to the radiator | on a folding chair | in the attic |
    by the kitchen window
    """
)
WHEN = _parts(
    """
    before breakfast | while it rained | late in the evening | during the lunch break | after a
    short nap | without saying a word | as slowly as possible | for the second time that week | long
    after dark | just as the bell rang | on a windy afternoon | in a great hurry | to general
    surprise | although nobody had asked | with the radio on | while the soup was cooking | as soon
    as the fog lifted | between two phone calls | at the very last moment | on the first warm day
    """
)
THEN = _parts(
    """
    Nobody noticed until the next day. | It took most of the morning. | The baby slept through it
    all. | Afterwards there was tea for everyone. | A draught had blown the door open. | The floor
    was still wet. | It would have been easier with two people. | There was sawdust on everything. |
    Later the whole thing had to be done again. | The handle came off at once. | It smelled of soap
    and lemons. | Someone laughed in the next room. | The box turned out to be far too small. | Only
    one spoon was left in the drawer. | The rest could wait. | Outside a car would not start. | The
    paint was not dry yet. | It was warmer than anyone had expected. | A cup fell, but it did not
    break. | The light flickered and went out. | Half of it ended up in the bin. | The stairs
    creaked at every step. | It looked better from a distance. | The lid did not fit any more. | By
    then the shop had closed. | There were crumbs all over the cushion. | The string was too short
    by a hand. | No one could say where the noise came from. | The queue reached the door. | It had
    been a long week. | The hens wanted to be let in again. | Two of the cups had lost their
    handles.
    """
)
FRAMES = (
    "{Who} {did} {where} {when}. {then}",
    "{When}, {who} {did} {where}. {then}",
    "{Where}, {who} {did} {when}. {then}",
    "{then} {Who} had come by and {did} {where}. {after}",
    "They say that {who} {did} {when}. {then} {after}",
    "First {who} {did} {where}, then {other} {also}. {then}",
)


def load() -> list[str]:
    """Return all rows, always the same ones in the same order."""
    return [_row(number) for number in range(ROWS)]


def _row(number: int) -> str:
    rng = random.Random(f"filler:{number}")
    who, other = rng.sample(WHO, 2)
    did, also = rng.sample(DID, 2)
    then, after = rng.sample(THEN, 2)
    parts = {"who": who, "other": other, "did": did, "also": also, "then": then, "after": after}
    parts |= {"where": rng.choice(WHERE), "when": rng.choice(WHEN)}
    capital = {
        name.title(): parts[name][0].upper() + parts[name][1:] for name in ("who", "where", "when")
    }
    return FRAMES[number % len(FRAMES)].format(**parts, **capital)
