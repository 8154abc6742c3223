"""Names of parametrized tests that are the same in every process."""

import re


def stable(value):
    """The value's repr without the addresses of functions."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
