"""A daemon has exactly one store, and the configuration says which."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mooring.controller.settings import load_settings
from mooring.controller.store.redis_store import RedisStore
from mooring.controller.store.sqlite import SqliteStore
from mooring.controller.stores import store_of
from mooring.core.errors import ConfigRefused
from tests.unit.samples_of_settings import settings_file

REDIS = '\n[redis]\nurl = "redis://user:secret@localhost:6399/2"\n'


async def test_a_file_or_redis(tmp_path: Path) -> None:
    config = settings_file(tmp_path)
    async with AsyncExitStack() as stack:
        assert isinstance(store_of(load_settings(config), stack), SqliteStore)
        config.write_text(config.read_text().partition("\n")[2] + REDIS)
        store = store_of(load_settings(config), stack)
        assert isinstance(store, RedisStore)
        assert store._name == "redis redis://localhost:6399/2 mooring:{mooring}"
        assert store._keys["leases"] == "mooring:{mooring}:leases"


@pytest.mark.parametrize("both", [True, False])
def test_not_both_and_not_neither(tmp_path: Path, both: bool) -> None:
    config = settings_file(tmp_path)
    text = config.read_text() + REDIS if both else config.read_text().partition("\n")[2]
    config.write_text(text)
    with pytest.raises(ConfigRefused, match=r"redis: set either `store`.*or `\[redis\]`, and not both"):
        load_settings(config)


@pytest.mark.parametrize("change", ['url = "http://x"', 'url = "redis://x"\nprefix = "a{b}"'])
def test_an_address_or_prefix_that_cannot_be_used(tmp_path: Path, change: str) -> None:
    config = settings_file(tmp_path)
    config.write_text(config.read_text().partition("\n")[2] + f"\n[redis]\n{change}\n")
    with pytest.raises(ConfigRefused, match=r"redis\."):
        load_settings(config)
