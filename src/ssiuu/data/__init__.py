"""Facts and instructions: the rows that everything else is made of."""

from ssiuu.data.fact import Fact, Instruction, Probe

__all__ = ["Fact", "Instruction", "Probe"]
