"""The exporter's session token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exporter.demo.scenario import Breakage
from exporter.demo.state import KeyFacts, Role

if TYPE_CHECKING:
    from exporter.demo.simulation import Simulation


def revoke_token() -> Breakage:
    """The owner's token is revoked."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        simulation.coder.state.accepted.discard(Role.OWNER)
        try:
            yield
        finally:
            simulation.coder.state.accepted.add(Role.OWNER)

    return broken


def change_token(role: Role) -> Breakage:
    """The exporter's file holds the token of another role."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        await simulation.give_token(role)
        try:
            yield
        finally:
            await simulation.give_token(Role.OWNER)

    return broken


def let_token_end(in_seconds: float) -> Breakage:
    """The owner's token ends so soon, and its use has not moved that for a day."""

    @asynccontextmanager
    async def broken(simulation: Simulation) -> AsyncIterator[None]:
        keys = simulation.coder.state.keys
        lifetime_seconds = 7 * 86400.0
        ends = simulation.now() + in_seconds
        keys[Role.OWNER] = KeyFacts(
            created_timestamp_seconds=ends - lifetime_seconds,
            expires_timestamp_seconds=ends,
            lifetime_seconds=lifetime_seconds,
        )
        try:
            yield
        finally:
            del keys[Role.OWNER]

    return broken
