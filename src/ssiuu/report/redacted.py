"""What a page of a redacted run says of itself. Imports no torch."""

from __future__ import annotations

from ssiuu.records.schema import RunHeader


def redaction(header: RunHeader) -> str:
    """Return what stands in the place of texts, in words; empty where they stand themselves."""
    if not header.redacted:
        return ""
    return (
        "Redacted: a digest in brackets stands in the place of every question and answer, text of a "
        "model, id of a fact and name of a file. Equal texts have equal digests, and only who has "
        f"the key ({header.redacted}) can tell of what. Figures and verdicts are those of the record "
        "with its texts. They hide nothing from who has the same models and guesses the fact: its "
        "numbers would come out the same."
    )
