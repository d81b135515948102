"""The command line: one sub-command a file, no logic. Heavy imports wait until they are needed.

Results go to stdout, progress to stderr. Exit codes: 0 done, 1 failed, 2 misuse, 130 interrupted.
"""

BASE = "model that an adapter belongs to, in place of the one that it states"
