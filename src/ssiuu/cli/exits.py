"""Exit codes, each with one meaning in every command."""

from __future__ import annotations

FAILED = 1
MISUSE = 2
NOT_FORGOTTEN = NOT_LEARNED = 3
AT_A_COST = 4
HIDDEN = 5
DISAGREES = 6
BROKE_OFF = 7
DIFFERS = 8
UNREADABLE = 9
UNSIGNED = 10
LACKING = 11
WITHHELD = 12
INTERRUPTED = 130

CODES = {
    0: "done, and what should be forgotten is",
    FAILED: "failed: something broke off, as a loss that is not finite",
    MISUSE: "misuse: what was given cannot be used; nothing was written",
    NOT_FORGOTTEN: "not forgotten; of teach: saved, and not all facts are known",
    AT_A_COST: "forgotten at the cost of what should stay (--max-kl, --min-retain)",
    HIDDEN: "hidden (audit): not said any more, and still in the model",
    DISAGREES: "a line does not agree with its run (compare --check)",
    BROKE_OFF: "a method of a run broke off, the others are there",
    DIFFERS: "not the model or the facts that a certificate is of (verify)",
    UNREADABLE: "no certificate, or changed after it was written (verify)",
    UNSIGNED: "not signed, or not by the key that was given (verify)",
    LACKING: "something that is needed is not there (doctor)",
    WITHHELD: "there, and not uploaded: it is not forgotten (unlearn, push)",
    INTERRUPTED: "interrupted, the same command continues",
}
HELP = f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in CODES.items())}."
