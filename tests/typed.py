"""The type checker of `pytest --typed`: an int will do for a float, as everywhere in Python."""

from beartype import BeartypeConf, beartype

typed = beartype(conf=BeartypeConf(is_pep484_tower=True))
