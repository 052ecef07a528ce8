"""Checks of the types and tensor shapes in the core's signatures, for jaxtyping's import hook."""

from beartype import BeartypeConf, beartype

#: Accepts an int where a float is annotated, as static type checkers do.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
