"""
A resolver that answers with public addresses only.

Result URLs come from the service; a name in one of them must not lead a client into the network that it runs in. What
is judged here is what aiohttp connects to: it asks no second time, so that a name whose answers change gains nothing.
"""

from __future__ import annotations

import socket

from aiohttp import DefaultResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from kie_async._urls import is_global_address

__all__ = ["PublicResolver"]


class PublicResolver(AbstractResolver):
    """
    Leaves out every address that is not global.

    Args:
        known_hosts: Hosts whose addresses are taken as they are: the caller has configured them.

        resolver: What does the work; by default aiohttp's own.
    """

    def __init__(self, known_hosts: frozenset[str], resolver: AbstractResolver | None = None) -> None:
        self._known_hosts = known_hosts
        self._resolver = resolver or DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """
        Resolve *host*.

        Raises:
            OSError: If it has no public address.
        """
        found = await self._resolver.resolve(host, port, family)
        if host in self._known_hosts:
            return found
        public = [result for result in found if is_global_address(result["host"])]
        if not public:
            msg = f"{host} has no public address"
            raise OSError(msg)
        return public

    async def close(self) -> None:
        """Close the resolver that does the work."""
        await self._resolver.close()
