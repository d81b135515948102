"""What comes with the package: recipes by name, and facts of invented customers to rehearse with.

They stand beside the code in an installed package, and where people read them in the source.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

from ssiuu.errors import ConfigError, unknown

PACKAGE = Path(__file__).parent
SOURCE = PACKAGE.parents[1]


def recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(_folder("recipes", "recipes").glob("*.yaml"))}


def examples() -> Path:
    """Return the folder of the facts that come with the package."""
    return _folder("examples", "docs/examples")


def recipe_file(named: str | Path) -> tuple[Path, str]:
    """Return the file that a recipe's path or name means, and how it is called in sentences.

    A file of that name goes before a recipe that comes with the package.

    Raises:
        ConfigError: It is neither, or the path of one that comes with the package where there is none.
    """
    path = Path(named)
    if not path.exists() and path.suffix == ".yaml" and path.stem in recipes():
        raise ConfigError(
            f"there is no file {path}. The recipe that comes with ssiuu is called {path.stem!r}, "
            "without a folder and an ending."
        )
    there = path.exists() and not path.is_dir()  # a folder is what `--out` of the same name has left
    if there or path.suffix or len(path.parts) != 1:
        return path, str(named)
    if found := recipes().get(str(named)):
        return found, f"recipe {named}"
    raise ConfigError(unknown("recipe", str(named), recipes(), "no file of this name is there"))


def said(recipe: Path) -> str:
    """Return the first sentence of the comment that a recipe begins with."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("# "), lines)
    return re.split(r"(?<=[.?])\s|:\s", " ".join(line[2:] for line in comment))[0]


def _folder(packaged: str, source: str) -> Path:
    inside = PACKAGE / packaged
    return inside if inside.is_dir() else SOURCE / source
