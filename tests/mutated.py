"""A file with a few mistakes in it: pieces put in, taken out, said twice or written over."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

PIECE = 30  # bytes of a file that are taken out or said twice at most
Edit = tuple[int, int, int, bytes]  # what, where (thousandths of the file), how much, which word

edits = st.integers(0, 4), st.integers(0, 1000), st.integers(0, PIECE)


def mutated(
    files: st.SearchStrategy[bytes], words: st.SearchStrategy[bytes]
) -> st.SearchStrategy[bytes]:
    """Return files with up to six mistakes, of the words or without."""
    return st.builds(_edited, files, st.lists(st.tuples(*edits, words), max_size=6))


def _edited(content: bytes, mistakes: Sequence[Edit]) -> bytes:
    for kind, place, length, word in mistakes:
        start = len(content) * place // 1000
        piece, end = content[start : start + length], start + length
        before, after = content[:start], content[end:]
        line = content.find(b": ", start) + 2  # the next value of a mapping
        content = [
            before + word + piece + after,
            before + word + after,
            before + after,
            before + piece + piece + after,
            content[:line] + word + content[line:],
        ][kind]
    return content
