"""Unlearning methods: an objective, retain terms and transforms, each in one file with one equation."""

from __future__ import annotations

from ssiuu.methods.base import Edit, Objective, RetainTerm, Transform
from ssiuu.methods.method import Method
from ssiuu.methods.names import METHODS, OBJECTIVES, RETAIN_TERMS, TRANSFORMS, known_methods, make

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "RETAIN_TERMS",
    "TRANSFORMS",
    "Edit",
    "Method",
    "Objective",
    "RetainTerm",
    "Transform",
    "known_methods",
    "make",
]
