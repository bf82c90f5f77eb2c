"""From names of hosts to addresses: in threads that outlive the main thread, and to public addresses only."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
from aiohttp.abc import AbstractResolver, ResolveResult

from kie_async._urls import is_allowed_address, network_to_allow

if TYPE_CHECKING:
    from kie_async._urls import Networks

__all__ = ["PrivateAddressError", "PublicResolver", "ThreadResolver"]


class ThreadResolver(AbstractResolver):
    """
    A resolver that works in anyio's threads.

    aiohttp's own uses the event loop's executor, which the interpreter closes with the main thread, while the loop of
    another thread still polls.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """
        Resolve *host*.

        Raises:
            OSError: If it has no address.
        """
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, protocol, _, address in await anyio.to_thread.run_sync(look_up, abandon_on_cancel=True)
        ]

    async def close(self) -> None:
        """Do nothing."""


class PrivateAddressError(OSError):
    """A name that leads to addresses only that must not be connected to."""


class PublicResolver(AbstractResolver):
    """
    A resolver that leaves out every address that is not public.

    Result URLs come from the service. A host name in one of them must not lead a client into its own network. aiohttp
    connects to exactly the addresses that are checked here and does not resolve again, so that changing DNS answers
    are harmless.

    Args:
        networks: Networks whose addresses count as public.

        resolver: The resolver to use; by default a ``ThreadResolver``.

        proxies: The hosts and ports of the caller's proxies, whose addresses are not checked.
    """

    def __init__(
        self,
        networks: Networks = (),
        resolver: AbstractResolver | None = None,
        *,
        proxies: frozenset[tuple[str | None, int | None]] = frozenset(),
    ) -> None:
        self._networks = networks
        self._proxies = proxies
        self._resolver = resolver or ThreadResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """
        Resolve *host*.

        Raises:
            PrivateAddressError: If it has no public address.

            OSError: If it has no address.
        """
        found = await self._resolver.resolve(host, port, family)
        if (host, port) in self._proxies:
            return found
        public = [result for result in found if is_allowed_address(result["host"], self._networks)]
        if found and not public:
            address = found[0]["host"]
            msg = f"{host} has no public address here, only {address}"
            if (network := network_to_allow(address)) is not None:
                msg += (
                    ". If a VPN or proxy of yours answers so, or the host is yours, allow it:"
                    f" allow_networks=['{network}'] (--allow-networks {network})"
                )
            raise PrivateAddressError(msg)
        return public

    async def close(self) -> None:
        """Close the resolver in use."""
        await self._resolver.close()
