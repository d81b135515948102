"""The benchmarks, one a file, and the data that they and the attacks draw from."""

from __future__ import annotations

from typing import Any

from ssiuu.benchmarks.base import Benchmark
from ssiuu.benchmarks.faithun import Faithun
from ssiuu.benchmarks.fictional import Fictional
from ssiuu.benchmarks.muse import Muse
from ssiuu.benchmarks.own import Own
from ssiuu.benchmarks.rwku import Rwku
from ssiuu.benchmarks.tofu import Tofu
from ssiuu.benchmarks.wmdp import Wmdp
from ssiuu.benchmarks.worldfacts import WorldFacts
from ssiuu.plugins import Registry

BUILT_IN: tuple[type[Benchmark[Any]], ...] = (
    WorldFacts,
    Fictional,
    Tofu,
    Faithun,
    Rwku,
    Muse,
    Wmdp,
    Own,
)
BENCHMARKS: Registry[Benchmark[Any]] = Registry("benchmark", "ssiuu.benchmarks", Benchmark, BUILT_IN)
