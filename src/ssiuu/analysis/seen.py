"""With which measures of the look inside "hidden" can be seen, and with which it cannot, in words.

Measured on small models of made-up worlds, whose truth is known: docs/inside.json, of which
docs/verdict.md has the table.
"""

from __future__ import annotations

SATURATED = (
    "by gradient × activation it was 1.00 on log P in every small model of known truth, whether its "
    "facts were hidden or never learned: it is saturated, and nothing can be told by it. D− was as "
    "high in both, and by integrated gradients about half of the hidden ones looked as if never "
    "learned. The read-out, the depth score, the linear probe and the causal test told them apart."
)
ABLATED = (
    "In small models of known truth 100 neurons of D−, set to 0, brought back 0.23 to 0.57 where facts "
    "were hidden inside the blocks, 0.08 to 0.21 where they were never learned. A share is no sign of "
    "hiding by itself, and where the output layer hides the test seldom sees it."
)
