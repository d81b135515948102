"""From a record to numbers: scores, levels, intervals, comparisons, verdicts. Imports no torch."""
