"""Fixtures of several files of tests."""

import pytest
from chat_stand_in import StandIn


@pytest.fixture
def standin(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = StandIn()
    yield server
    server.close()
