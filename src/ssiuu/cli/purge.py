"""`ssiuu purge`: remove what holds a fact, and leave the redacted report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssiuu.cli.options import DigestKeyFile
from ssiuu.cli.spoken import result


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="folder of a run, an audit or a checkpoint")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="do it; without it, it is only told")] = False,
    models: Annotated[bool, typer.Option("--models", help="models that a run kept as well")] = False,
    facts: Annotated[
        bool, typer.Option("--facts", help="the files of facts that it was given as well")
    ] = False,
    digest_key: DigestKeyFile = None,
) -> None:
    """Remove records, states, what lies in the cache, and the key of the digests.

    Of a run or an audit the redacted report and the certificate are left. What
    cannot be removed is said. Nothing is removed without --yes.
    """
    from ssiuu.models.sources import cache_folder
    from ssiuu.redaction.purge import planned, purge
    from ssiuu.redaction.several import planned_several, purge_several, runs_in

    several = bool(runs_in(folder))
    how = (folder, cache_folder(), digest_key, models, facts)
    plans = planned_several(*how) if several else [planned(*how)]
    sizes = list(dict(size for plan in plans for size in plan.sizes()).items())
    for path, size in sizes:
        print(f"{size:12,d}  {path}")
    print(f"{sum(size for _, size in sizes):12,d}  bytes in {len(sizes)} places")
    left = [*dict.fromkeys(left for plan in plans for left in plan.left)]
    told = [{"path": path, "bytes": size} for path, size in sizes]
    result(removed=yes, places=told, left=left)
    if yes and several:
        purge_several(folder, plans, digest_key)
    elif yes:
        purge(plans[0])
    print("removed" if yes else "nothing was removed: --yes removes it")
    for one in left:
        print(one)
