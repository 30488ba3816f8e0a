"""The run-time check of annotations that `conftest.py` puts on `headway.train` and `headway.model` under pytest."""

from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may be passed where a float is asked for


def check(thing: Any) -> Any:
    """`thing` with its arguments and result checked. A hint that is a plain Protocol cannot be checked: left as it is."""
    try:
        return _check(thing)
    except BeartypeDecorHintPep3119Exception:
        return thing
