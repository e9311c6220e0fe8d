"""What the verbs' options lead to: the configuration in use, and its store."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from responder.clock import SystemClock
from responder.config import Config, find, load
from responder.start import StartError, make_store
from responder.store.base import Store, StoreUnusableError

T = TypeVar("T")
Verbs = Any  # argparse's action of sub-parsers has no public name


def configuration(options: argparse.Namespace) -> tuple[Config, Path]:
    """The configuration that the options name, and its file. Raises `ConfigError`."""
    path: Path | None = options.config
    return load(path, os.environ), find(path, os.environ)


def with_store(options: argparse.Namespace, work: Callable[[Store], Awaitable[T]]) -> T:
    """Run `work` on the store of the configuration. Raises `StartError`, `StoreError`."""
    config, file = configuration(options)

    async def run() -> T:
        store = make_store(config, file, SystemClock())
        try:
            await store.open(create=False)
        except StoreUnusableError as error:
            raise StartError(f"{file}: store: {error}") from error
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def count(argument: str) -> int:
    """A number of items, as it was typed."""
    if not (argument.isascii() and argument.isdigit() and 0 < int(argument[:20]) < 1 << 63):
        raise argparse.ArgumentTypeError("wants a number from 1")
    return int(argument)
