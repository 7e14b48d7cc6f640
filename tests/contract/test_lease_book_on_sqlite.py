"""The random walk of `tests/unit/test_lease_book_model.py`, written through a real SQLite file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings

from mooring.controller.store.runners import inline
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.store import Store
from tests.unit.test_lease_book_model import MACHINE_SETTINGS, BookMachine


class BookOnFile(BookMachine):
    """Each restart closes the file and opens it again."""

    def first_store(self) -> Store:
        self.directory = tempfile.TemporaryDirectory()
        return self.same_store_again()

    def same_store_again(self) -> Store:
        return SqliteStore(Path(self.directory.name) / "store.db", inline)

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


BookOnFile.TestCase.settings = settings(MACHINE_SETTINGS, max_examples=10)
TestBookOnFile = BookOnFile.TestCase
