"""All modules here are strict about ranks and compile quickly."""

import pytest
from support import strictness


@pytest.fixture(autouse=True, scope="module")
def strict_and_quick():
    with strictness.strict_and_quick():
        yield
