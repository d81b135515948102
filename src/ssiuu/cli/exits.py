"""Exit codes, each with one meaning in every command."""

from __future__ import annotations

FAILED = 1  # something broke off: a loss that is not finite, say
MISUSE = 2  # what was given cannot be used; nothing was written
NOT_FORGOTTEN = 3  # facts that should be gone are still known
NOT_LEARNED = 3  # the model was saved, and does not know all of the facts that it was taught
AT_A_COST = 4  # they are gone, and so is more than --max-kl and --min-retain allow
HIDDEN = 5  # they are not said any more, and still in the model
DISAGREES = 6  # a line of a leaderboard was changed, or does not agree with its run
BROKE_OFF = 7  # a method's training or scores were not finite; the rest of the run is there
INTERRUPTED = 130  # the same command continues

HELP = (
    "Exit codes: 0 done, and what should be forgotten is; 1 failed; 2 misuse; 3 not forgotten; "
    "4 forgotten at the cost of what should stay; 5 hidden (audit); 6 a line does not agree with "
    "its run (compare --check); 7 a method of a run broke off, the others are there; "
    "130 interrupted, the same command continues."
)
