"""Which column is what: the shapes that fact files have elsewhere, read as rows of facts.

    question, answer            ours; capitals do not matter
    prompt, completion          and every other pair of a name of QUESTIONS and one of ANSWERS
    instruction, input, output  the input follows its instruction after a blank line
    messages                    one turn of the user and one of the assistant; also `conversations`
    perturbed_answer, ...       TOFU's

Any other column is an error, unless those to read are named: --columns question=text,answer=label. A
file that has none of those named and is of a known shape is read as that: not all files need be alike.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssiuu.data.problems import Problems, kind, listed
from ssiuu.data.rows import FACT, Raw
from ssiuu.errors import SHOWN, ConfigError, show, unknown

Columns = Mapping[str, str]
Tell = Callable[[str], None]

QUESTIONS = ("question", "prompt", "instruction", "query")
ANSWERS = ("answer", "completion", "response", "output")
CONVERSATIONS = ("messages", "conversations", "conversation")
TOFU = {"perturbed_answer": "perturbed", "paraphrased_question": "paraphrases"}
KNOWN = {*FACT.keys, *QUESTIONS, *ANSWERS, *CONVERSATIONS, *TOFU}
# Numbers that a data frame writes beside its rows.
INDEX = re.compile(r"|unnamed: \d+(\.\d+)?|index|__index_level_\d+__", re.IGNORECASE)
SPEAKERS = {"user": "user", "human": "user", "prompter": "user", "system": "system"}
SPEAKERS |= dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant")


NAMED = 1000  # columns among which one of a similar name is looked for


def parse_columns(text: str, key: str = "--columns") -> dict[str, str]:
    """Return the columns that `question=text,answer=label` names, by our key.

    Raises:
        ConfigError: It is not of that form.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        ours, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not (ours and equals and theirs):
            raise ConfigError(
                f"{key} {text!r}: {part.strip()!r} is not of the form key=column; write "
                "question=COLUMN,answer=COLUMN."
            )
        if ours in columns:
            raise ConfigError(f"{key} {text!r}: {ours} stands twice; keep one of them.")
        columns[ours] = theirs
    check_columns(columns, key)
    return columns


def check_columns(columns: Columns, key: str = "columns") -> None:
    """Refuse what is no key of a fact, and a column that two keys are read from.

    Question and answer may be one column, of conversations: what is in it tells (`_arranged`).

    Raises:
        ConfigError: With every such key.
    """
    wrong = [ours for ours in columns if ours not in FACT.keys]
    problems = [unknown("key of a fact", ours, FACT.keys, key) for ours in wrong]
    readers: dict[str, list[str]] = {}
    for ours, theirs in columns.items():
        readers.setdefault(theirs, []).append(ours)
    problems += [
        f"{key}: {' and '.join(ours)} are both to be read from {listed([theirs])}: give each a column "
        "of its own."
        for theirs, ours in readers.items()
        if len(ours) > 1 and {*ours} != {*FACT.required}
    ]
    if problems:
        raise ConfigError(problems)


def given_columns(columns: Columns | str | None) -> Columns | None:
    """Return columns that were given as a mapping or as `--columns` has them; see `check_columns`."""
    columns = parse_columns(columns) if isinstance(columns, str) else columns
    check_columns(columns or {})
    return columns


@dataclass(frozen=True)
class _Plan:
    """How rows of one set of names are read: our key -> their name, and what is not read."""

    sources: dict[str, str]
    index: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    added: str | None = None  # the input, which follows its instruction
    twice: str = ""


def arranged(
    raw: list[Raw],
    columns: Columns | None,
    problems: Problems,
    tell: Tell,
    foreign: bool = False,
    cells: bool = False,
) -> list[Raw]:
    """Return the rows under our keys; of what cannot be read every problem is noted.

    Args:
        raw: As found. What is no object is left as it is.
        columns: Our keys and the columns they are read from; all others are left out then. None, and
            where it has none of them nor any of a similar name: known shapes are found by the names of
            their columns.
        problems: Of the source.
        tell: Told in a sentence what is read from where, and what is left out.
        foreign: Leave unknown columns out: nobody can mend somebody else's data set.
        cells: Values are cells of a table, where lists are texts separated by |.
    """
    names = list(dict.fromkeys(name for _, row in raw if isinstance(row, dict) for name in row))
    plans: dict[tuple[str, ...], _Plan] = {}
    if columns is not None and _of_another_file(columns, names):
        named = listed(dict.fromkeys(columns.values()))
        tell(f"{problems.where}: has none of the columns {named}; read by its own.")
        columns = None
    if columns is not None:
        plans[()] = _named(columns, names, problems)
    elif reason := _without_facts(names):
        problems.settle()
        problems.stop(reason)
    rows: list[Raw] = []
    odd: dict[str, list[int]] = {}
    for line, row in raw:
        if not isinstance(row, dict):
            rows.append(Raw(line, row))
            continue
        # A plan for every set of names, as the rows of one file may differ in theirs.
        mine = () if columns is not None else tuple(row)
        if mine not in plans:
            plans[mine] = _plan(mine)
        plan = plans[mine]
        for name in plan.unknown:
            odd.setdefault(name, []).append(line)
        rows += _arranged(line, row, plan, columns, problems, cells)
    if not foreign:
        for place, (name, lines) in enumerate(odd.items()):
            # What comes behind the first ones is counted, not said.
            said = _unknown(name, len(lines) - 1, plans.values()) if place < SHOWN else ""
            problems.at(lines[0], said)
    _tell(list(plans.values()), problems, tell)
    return rows


def _named(columns: Columns, names: Sequence[str], problems: Problems) -> _Plan:
    """Return the plan that was asked for; question and answer are by default of that name."""
    wanted = {**{key: key for key in FACT.required}, **columns}
    for ours, theirs in wanted.items():
        if names and theirs not in names:
            near = difflib.get_close_matches(theirs, names[:NAMED], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            problems.stop(
                f"has no column {theirs!r}, which {ours} is to be read from "
                f"(--columns {ours}={theirs}).{hint} It has: {listed(names)}."
            )
    return _Plan(wanted)


def _of_another_file(columns: Columns, names: Sequence[str]) -> bool:
    """Whether columns that were named are those of another file, and this one is of a known shape."""
    near = (difflib.get_close_matches(theirs, names[:NAMED], n=1) for theirs in columns.values())
    read = _plan(tuple(names))
    return bool(names) and not any(near) and not {*FACT.required} - read.sources.keys()


def _plan(names: tuple[str, ...]) -> _Plan:
    """Return how rows with these names are read."""
    index = tuple(name for name in names if INDEX.fullmatch(name.strip()))
    folded = {name: re.sub(r"[\s-]+", "_", name.strip().casefold()) for name in names}
    sources: dict[str, str] = {}
    for name in names:
        ours = TOFU.get(folded[name], folded[name])
        if ours in FACT.keys:
            if ours in sources:
                return _Plan({}, index, twice=f"{sources[ours]!r} and {name!r}")
            sources[ours] = name

    def spare(kinds: Iterable[str]) -> list[str]:
        used = {*index, *sources.values()}
        return [name for name in names if name not in used and folded[name] in kinds]

    for ours, kinds in (("question", QUESTIONS), ("answer", ANSWERS)):
        if ours not in sources and len(candidates := spare(kinds)) == 1:
            sources[ours] = candidates[0]
    # A conversation is both, the question and the answer.
    talk = spare(CONVERSATIONS)
    if not {*FACT.required} & sources.keys() and len(talk) == 1:
        sources |= dict.fromkeys(FACT.required, talk[0])
    # An input goes behind its instruction; where there is none it is the question.
    inputs, added = spare(["input"]) if "answer" in sources else [], None
    if inputs and "question" not in sources:
        sources["question"] = inputs[0]
    elif inputs and folded[sources["question"]] == "instruction":
        added = inputs[0]
    known = {*index, *sources.values(), added}
    return _Plan(sources, index, tuple(name for name in names if name not in known), added)


def _without_facts(names: Sequence[str]) -> str:
    """Return the sentence for names of which none can be the question or the answer, or nothing."""
    read = _plan(tuple(names))
    missing = [key for key in FACT.required if key not in read.sources]
    several = any(name.casefold() in (*QUESTIONS, *ANSWERS) for name in read.unknown)
    if not (names and missing) or several or read.twice:
        return ""
    near = [n for key in missing for n in difflib.get_close_matches(key, read.unknown[:NAMED], n=1)]
    hint = f" (is it {near[0]!r}?)" if near else ""
    return (
        f"has the columns {listed(names)}, and none that is "
        f"known for the {' and the '.join(missing)}{hint}; say what is read: "
        f"--columns {_option(read.sources)}."
    )


def _option(sources: Columns) -> str:
    return ",".join(f"{key}={listed([sources.get(key, 'COLUMN')])}" for key in FACT.required)


def _unknown(name: str, more: int, plans: Iterable[_Plan]) -> str:
    sources: Mapping[str, str] = next((p.sources for p in plans if name in p.unknown), {})
    also = f" (and in {more} more)" if more else ""
    near = difflib.get_close_matches(name, FACT.keys, n=1, cutoff=0.7)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"unknown key {name!r}{also}.{hint} Known: {', '.join(sorted(FACT.keys))}. Take it out, or "
        f"name all that is read, and the rest is left out: --columns {_option(sources)}."
    )


def _arranged(
    line: int,
    row: dict[str, Any],
    plan: _Plan,
    columns: Columns | None,
    problems: Problems,
    cells: bool,
) -> list[Raw]:
    """Return one row under our keys in a list, or an empty list and its problems."""
    if plan.twice:
        problems.at(line, f"has {plan.twice}, which are the same key; keep one of them.")
        return []
    values: dict[str, Any] = {}
    wrong = [] if columns is None else _one_for_two(row, plan.sources)
    for ours, theirs in () if wrong else plan.sources.items():
        if theirs in row:
            try:
                values[ours] = _value(ours, theirs, row[theirs], cells)
            except ValueError as error:
                wrong.append(str(error))
        elif ours in FACT.required and columns is not None:
            wrong.append(f"the column {theirs!r}, which {ours} is read from, is missing.")
    added = row[plan.added] if plan.added is not None else None
    if added and isinstance(added, str) and isinstance(values.get("question"), str):
        values["question"] = f"{values['question'].strip()}\n\n{added.strip()}".strip()
    for problem in dict.fromkeys(wrong):
        problems.at(line, problem)
    return [] if wrong else [Raw(line, values)]


def _one_for_two(row: dict[str, Any], sources: Columns) -> list[str]:
    """Return the problem of a column that is to be both question and answer and is no conversation."""
    name = sources["question"]
    talk = name.strip().casefold() in CONVERSATIONS or _is_conversation(row.get(name))
    if name != sources["answer"] or name not in row or talk:
        return []
    return [
        f"question and answer are both read from {name!r}, which is {kind(row[name])} and no "
        "conversation: give each a column of its own, --columns question=COLUMN,answer=COLUMN."
    ]


def _value(ours: str, theirs: str, value: Any, cells: bool) -> Any:
    """Return a value in the type that our key has.

    Raises:
        ValueError: It is a conversation that is not one question and one answer.
    """
    if ours in FACT.required and _is_conversation(value):
        return _turn(theirs, value, "user" if ours == "question" else "assistant")
    if theirs.strip().casefold() in CONVERSATIONS:
        raise ValueError(
            f"{theirs!r} is {kind(value)} ({show(value)}), not a list of turns: "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].'
        )
    if ours == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if ours in FACT.lists and isinstance(value, str):
        if theirs.casefold() == "paraphrased_question":
            return [value] if value.strip() else None
        if cells:
            return [item.strip() for item in value.split("|") if item.strip()]
    return value


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _turn(name: str, turns: list[dict[str, Any]], wanted: str) -> str:
    """Return what one speaker of a conversation says.

    Raises:
        ValueError: He has not exactly one turn, or somebody else speaks.
    """
    says: dict[str, list[Any]] = {"user": [], "assistant": [], "system": []}
    for turn in turns:
        who, what = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        speaker = SPEAKERS.get(str(who).casefold())
        if speaker is None:
            raise ValueError(
                f"{name!r} has a turn of {show(who)}; a conversation has turns of "
                '"user" and "assistant": {"role": "user", "content": "..."}.'
            )
        says[speaker].append(what)
    if says["system"]:
        raise ValueError(
            f"{name!r} has a system text ({show(says['system'][0])}); a fact has none: take it out, "
            "and set one for all facts (prompt_system)."
        )
    if len(says[wanted]) != 1 or len(says["user"]) > 1:
        raise ValueError(
            f"{name!r} has {len(says['user'])} turns of the user and {len(says['assistant'])} of "
            "the assistant; a fact is one question and one answer: give each pair a row of its own."
        )
    return _text(name, says[wanted][0])


def _text(name: str, content: Any) -> str:
    """Return the text of a turn, which may come in parts.

    Raises:
        ValueError: There is something else in it.
    """
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        parts = [part.get("text") for part in content if part.get("type", "text") == "text"]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise ValueError(f"{name!r} has a turn that is {kind(content)} ({show(content)}), not a text.")
    return content


def _tell(plans: list[_Plan], problems: Problems, tell: Tell) -> None:
    """Say once what is read from columns of another name, and which are left out."""
    read = {
        f"{ours} from {theirs!r}": None
        for plan in plans
        for ours, theirs in plan.sources.items()
        if ours != theirs
    }
    read |= {f"the input from {p.added!r}": None for p in plans if p.added}
    left_out = sorted({repr(name) for plan in plans for name in plan.index})
    if read:
        tell(f"{problems.where}: reads {', '.join(read)}.")
    if left_out:
        tell(f"{problems.where}: {', '.join(left_out)}, a data frame's row numbers, are left out.")
