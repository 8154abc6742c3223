"""Programs are compiled once for all tests of this folder."""

import pytest
from support import tiny


@pytest.fixture(autouse=True)
def shared_programs(monkeypatch):
    tiny.share_programs(monkeypatch)
