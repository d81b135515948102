"""Whether the Hugging Face hub answers at all, asked before anything is wanted of it.

The libraries that read from it try again and again: behind a firewall that swallows packets they
would be silent for minutes.
"""

from __future__ import annotations

from threading import Thread

PATIENCE = 10.0  # seconds


def silence() -> str:
    """Return why nothing can be had from the hub now, one phrase; empty where it answers.

    Any answer counts, an error too. In offline mode (HF_HUB_OFFLINE) nothing is asked: only what
    is in the hub's cache will be read.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return ""
    found: list[str] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE / 2)
            found.append("")
        except Exception as error:  # the client raises many unrelated kinds
            found.append(first_line(error))

    # A thread, because looking up a name and trying address after address know no timeout.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    reason = found[0] if found else f"no answer within {PATIENCE:.0f} s"
    if not reason:
        return ""
    return (
        f"{constants.ENDPOINT} cannot be reached: {reason}. Is there a firewall or a proxy? "
        "HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 reads the cache alone"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not empty, or its kind; 160 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__
