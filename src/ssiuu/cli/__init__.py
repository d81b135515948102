"""The command line: one sub-command a file, no logic. Heavy imports wait until they are needed.

Results go to stdout, progress to stderr. Exit codes: see `ssiuu.cli.exits`.
"""
