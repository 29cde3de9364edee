"""The checker of annotations, which tests/conftest.py puts around the functions of some packages."""

from collections.abc import Sequence

from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import ArrayLike

CHECKED_PACKAGES = ('geometry', 'model_code', 'release_2023.model', 'encoder_decoder_framework')

CONFIG = BeartypeConf(
    is_pep484_tower=True,  # an int is accepted for a float, as static type checkers do
    # numpy's protocol of nested sequences asks for __reversed__, which a tuple has only in stub files
    hint_overrides=FrozenDict({ArrayLike: ArrayLike | Sequence}),
)
check_types = beartype(conf=CONFIG)
