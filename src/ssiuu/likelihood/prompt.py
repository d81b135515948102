"""How questions become tokens: prompt and answer as one text, parted where the answer begins.

prompt = Prompt(tokenizer, "qa")
joint = prompt.joint("Where is Arvo?", ["Torvik", "Mellby"])
joint.prompt + joint.answers[0]  # the tokens of "Q: Where is Arvo?\\nA: Torvik"
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from ssiuu.causal import CausalLM
from ssiuu.errors import ConfigError, DataError
from ssiuu.likelihood.template import rendered

PromptStyle = Literal["plain", "qa", "chat"]
FORMS: Final = {"plain": "Question: {question}\nAnswer:", "qa": "Q: {question}\nA:"}
SLOT: Final = "{question}"
_OTHER: Final[dict[PromptStyle, PromptStyle]] = {"chat": "qa", "qa": "plain", "plain": "qa"}
_MARK: Final = "spoken"


KEPT: Final = 4096  # questions with answers that are tokenised once


class Joint(NamedTuple):
    """A prompt and answers that may follow it, as token ids.

    `prompt` + `answers[i]` is the text of both as the tokenizer reads it. `alone` is the prompt read
    without an answer, from which a model writes. It is `prompt` unless a token holds the prompt's end
    and an answer's beginning: such a token belongs to the answer.
    """

    prompt: list[int]
    answers: list[list[int]]
    alone: list[int]


WHOLE_TURN = 1 << 20  # lines
COURTESY = 2  # lines that may lead up to an answer: "Sure!\n\nHere it is:\nRome"
LEADS = (
    ":",
    "!",
    ",",
    "…",
    "...",
    "：",
    "！",
    "，",
)  # how such a line ends
# What such a line may say whatever its end; no word that is an answer to a question of yes or no.
_CIVIL: Final = frozenset(
    unicodedata.normalize("NFC", text)
    for text in (
        "of course|sure|sure thing|certainly|absolutely|definitely|okay|ok|alright|all right|gladly|"
        "with pleasure|no problem|good question|great question|natürlich|gern|gerne|selbstverständlich|"
        "bien sûr|certainement|avec plaisir|volontiers|claro|por supuesto|desde luego|con gusto|"
        "com certeza|certo|certamente|elbette|tabii|конечно|разумеется|もちろん|もちろんです|"
        "承知しました|かしこまりました|わかりました|当然|當然|当然可以|好的|没问题|沒問題|물론|물론입니다|"
        "물론이죠|بالتأكيد|بالطبع|ज़रूर|बिल्कुल"
    ).split("|")
)
_STOPS: Final = " .,!。，！।"


class Ending(NamedTuple):
    """Where an answer ends: at the end of its last line, or at an end token.

    `lines`: how many are wanted; blank ones, and those that only lead up to it, are not counted.
    `held`: special tokens that the wanted answer holds itself, and how often; so many of them end
    nothing.
    """

    lines: int = 1
    held: Mapping[int, int] = MappingProxyType({})

    def reached(self, lines: Sequence[str]) -> bool:
        """Whether these whole lines are all that is wanted."""
        return any(line.strip() for line in lines) and _counted(lines) >= self.lines

    def exceeded(self, written: Sequence[int]) -> bool:
        """Whether the last token comes more often than in the wanted answer."""
        return written.count(written[-1]) > self.held.get(written[-1], 0)


ONE_LINE: Final = Ending()


@dataclass(frozen=True)
class Prompt:
    """How a question becomes tokens.

    plain: "Question: ...\\nAnswer:" followed by " answer". qa: "Q: ...\\nA:", after which small
    models answer more briefly. chat: the tokenizer's own template with the generation prompt,
    followed by the answer.

    Prompt and answer are tokenised as one text and then parted, so that an answer has the tokens that
    it has where a model reads it (`joint`).

    Attributes:
        tokenizer: The model's.
        style: The form.
        form: A form of one's own in its place, in which "{question}" stands for the question; the
            answer follows what stands behind. Blanks at its end come before every answer; where it has
            none one is put there, but not behind a line end, a special token of the tokenizer, or a
            script that has no blanks.
        system: A text for the system's turn of a chat; else a paragraph in front.
    """

    tokenizer: Any
    style: PromptStyle = "plain"
    form: str | None = None
    system: str | None = None

    @property
    def name(self) -> str:
        """What this form is called."""
        return "custom" if self.form is not None else self.style

    @property
    def key(self) -> Any:
        """What this form is, as JSON; the name alone where there is no more to it."""
        further = self.form is not None or self.system is not None
        return [self.name, self.form, self.system] if further else self.style

    @property
    def description(self) -> str:
        """The form in words, for people."""
        chat = self.form is None and self.style == "chat"
        form = "the model's own chat template" if chat else f'"{self._form}"'.replace("\n", "\\n")
        system = "" if self.system is None else f", with the system text {self.system!r}"
        return f"{self.name}: {form}{system}"

    def other(self) -> Prompt:
        """Return another form to ask in: qa for chat and one's own, plain for qa, qa for plain."""
        style = "qa" if self.form is not None else _OTHER[self.style]
        return Prompt(self.tokenizer, style)

    def question(self, text: str, shots: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Return the token ids of the prompt for a question, after `shots`: questions with answers."""
        return self._ids([self._written(text, shots)])[0]

    def joint(
        self,
        question: str,
        answers: Sequence[str],
        shots: Sequence[tuple[str, str]] = (),
        begun: str = "",
    ) -> Joint:
        """Tokenise a question with answers that may follow it.

        All answers share one prompt: it ends where the first of them begins.

        Args:
            question: The question.
            answers: One or several.
            shots: Questions with answers in front of it.
            begun: Words of an answer that are there already; they are part of the prompt.

        Raises:
            DataError: Question and answer are one token, so nothing is left to answer after.
        """
        key = (question, tuple(answers), tuple(shots), begun)
        if key not in self._joints:
            if len(self._joints) >= KEPT:
                self._joints.clear()
            self._joints[key] = self._joint(question, answers, shots, begun)
        prompt, found, alone = self._joints[key]
        return Joint([*prompt], [[*ids] for ids in found], [*alone])

    @cached_property
    def _joints(self) -> dict[Any, Joint]:
        """What was tokenised: the same facts are read again after every few steps."""
        return {}

    def _joint(
        self, question: str, answers: Sequence[str], shots: Sequence[tuple[str, str]], begun: str
    ) -> Joint:
        text = self._written(question, shots)
        gap = self._gap(text)
        if begun:
            stem = begun.rstrip(" ")
            text, gap = f"{text}{gap}{stem}", "" if stem.endswith("\n") else " "
        alone, *whole = self._ids([text, *(f"{text}{gap}{answer}" for answer in answers)])
        cut = min((_shared(alone, ids) for ids in whole), default=len(alone))
        if not cut:
            raise DataError(
                f"the question {question!r} and its answer begin with the same token for this "
                "tokenizer, so the answer cannot be scored. Ask in another prompt."
            )
        return Joint(alone[:cut], [ids[cut:] for ids in whole], alone)

    def answer(self, text: str, question: str = "") -> list[int]:
        """Return the token ids of an answer as it follows a question."""
        return self.joint(question, [text]).answers[0]

    def sentence(self, text: str) -> list[int]:
        """Return the token ids of text that answers no question."""
        return [*self._prefix, *self._bare([text])[0]]

    def ending(self, answer: Sequence[int]) -> Ending:
        """Return where an answer ends that should be this one (token ids)."""
        special = Counter(token for token in answer if token in self._special)
        # A chat's turn has an end of its own.
        lines = _counted(self.tokenizer.decode(answer).split("\n"))
        return Ending(WHOLE_TURN if self._turn_end is not None else lines, special)

    @property
    def end(self) -> list[int]:
        """The token that ends an answer: in a chat the turn's, else the end of text; or none."""
        ends = (self._turn_end, self.tokenizer.eos_token_id)
        return [token for token in ends if token is not None][:1]

    def ended(self, written: Sequence[int], ending: Ending, ends: Collection[int]) -> bool:
        """Whether an answer ends with the last token written.

        Args:
            written: Token ids so far, at least one.
            ending: Of the wanted answer.
            ends: Tokens that end a text (see `end_tokens`).
        """
        if written[-1] in ends and ending.exceeded(written):
            return True
        last = written[-1]
        if last not in self._breaks:  # decoding all of a long answer at every token would take long
            self._breaks[last] = "\n" in self.tokenizer.decode([last])
        if not self._breaks[last]:
            return False
        return ending.reached(str(self.tokenizer.decode(written)).split("\n")[:-1])

    def end_tokens(self, model: CausalLM | None = None) -> frozenset[int]:
        """Return the tokens that end a text: the tokenizer's, the model's, and the template's own."""
        config = getattr(model, "generation_config", None)
        stated = getattr(config, "eos_token_id", None)
        ends = {self.tokenizer.eos_token_id, self._turn_end}
        ends |= set(stated) if isinstance(stated, list | tuple) else {stated}
        return frozenset(token for token in ends if token is not None)

    def text(self, ids: Sequence[int], ending: Ending = ONE_LINE) -> str:
        """Return the text of generated tokens, as many lines as are wanted and no further question.

        Special tokens are left out, but for those that the wanted answer holds.
        """
        if ending.held:
            visible = ids[:-1] if ids and ids[-1] in ending.held and ending.exceeded(ids) else ids
            visible = [token for token in visible if token in ending.held or token not in self._special]
            decoded = str(self.tokenizer.decode(visible))
        else:
            decoded = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        lines = decoded.strip().split("\n")
        end = 1
        while end < len(lines) and not (ending.reached(lines[:end]) or self._asks(lines[end])):
            end += 1
        return "\n".join(lines[:end]).strip()

    def _asks(self, line: str) -> bool:
        """Whether a line begins as this form's questions do: the model has made up another one."""
        begins = "" if self._chats else self._form.partition(SLOT)[0].strip().rpartition("\n")[2]
        return bool(begins) and line.lstrip().startswith(begins)

    @property
    def _form(self) -> str:
        form = self.form if self.form is not None else FORMS[self.style]
        return form.rstrip(" ")  # a blank there is part of the answer's first token

    @property
    def _chats(self) -> bool:
        return self.form is None and self.style == "chat"

    def _written(self, question: str, shots: Sequence[tuple[str, str]]) -> str:
        if self._chats:
            turns = [("system", self.system)] if self.system is not None else []
            turns += [turn for q, a in shots for turn in (("user", q), ("assistant", a))]
            return rendered(self.tokenizer, [*turns, ("user", question)]) + self._lead.rstrip(" ")
        questions = [self._form.replace(SLOT, text) for text in (*(q for q, _ in shots), question)]
        examples = [f"{q}{self._gap(q)}{a}" for q, (_, a) in zip(questions, shots, strict=False)]
        before = [self.system] if self.system is not None else []
        return "\n\n".join([*before, *examples, questions[-1]])

    def _gap(self, text: str) -> str:
        """Return what comes between a prompt and an answer: a blank, where there should be one."""
        if self._chats:
            return self._lead[len(self._lead.rstrip(" ")) :]
        if self.form is None:
            return " "
        if self.form != self._form:
            return self.form[len(self._form) :]
        wide = unicodedata.east_asian_width(text[-1:] or " ") in "WF"
        marked = any(text.endswith(token) for token in self._marks)
        return "" if text[-1:].isspace() or wide or marked else " "

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Tokenise whole texts, with what the tokenizer puts in front; a template does that itself."""
        start = [] if self._chats else self._prefix
        return [[*start, *ids] for ids in self._bare(texts)]

    def _bare(self, texts: list[str]) -> list[list[int]]:
        # Not verbose: a text that is longer than the context is cut by whoever asks.
        found = self.tokenizer(texts, add_special_tokens=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    @cached_property
    def _breaks(self) -> dict[int, bool]:
        """Which tokens hold a line end, of those seen so far."""
        return {}

    @cached_property
    def _prefix(self) -> list[int]:
        """The special tokens that the tokenizer puts in front of a text; not those behind it."""
        bare, whole = self._bare(["a"])[0], list(self.tokenizer(["a"])["input_ids"][0])
        starts = range(len(whole) - len(bare) + 1)
        return next((whole[:i] for i in starts if whole[i : i + len(bare)] == bare), [])

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset({i for i, t in added if t.special} | {*self.tokenizer.all_special_ids})

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """The special tokens as text."""
        return tuple(self.tokenizer.convert_ids_to_tokens(sorted(self._special)))

    @cached_property
    def _turn(self) -> str:
        """A question with the answer `_MARK` as the template writes them; empty if it cannot."""
        try:
            return rendered(self.tokenizer, [("user", "a"), ("assistant", _MARK)], generate=False)
        except ConfigError:
            return ""  # a template without answers of its own

    @cached_property
    def _lead(self) -> str:
        """What the template puts between where a model begins and its answer.

        A blank, as in "[/INST] Rome", or a block of thoughts with nothing in it.
        """
        opening = rendered(self.tokenizer, [("user", "a")])
        before, spoken, _ = self._turn.rpartition(_MARK)
        return before.removeprefix(opening) if spoken and before.startswith(opening) else ""

    @cached_property
    def _turn_end(self) -> int | None:
        """The special token that the template puts behind an answer, if it does."""
        ids = self._bare([self._turn.rpartition(_MARK)[2].lstrip()])[0] if self._chats else []
        return ids[0] if ids and ids[0] in self._special else None


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _counted(lines: Sequence[str]) -> int:
    """Return how many lines are an answer: not blank, and none of the first that only lead up to it."""
    filled = [line.strip() for line in lines if line.strip()]
    leading = [line.endswith(LEADS) or _is_civil(line) for line in filled[:COURTESY]]
    return len(filled) - (leading.index(False) if False in leading else len(leading))


def _is_civil(line: str) -> bool:
    """Return whether a line says no more than "Of course."."""
    return unicodedata.normalize("NFC", line).casefold().strip(_STOPS) in _CIVIL
