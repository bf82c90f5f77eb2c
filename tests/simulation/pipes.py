"""
In-memory connections between simulated processes, in place of sockets.

Bytes arrive at the other end in order, after a drawn delay, in drawn pieces. A connection can be closed, reset, cut
within a write, or go silent for ever. Each end draws from a generator of its own, so that the order in which aiohttp
closes a set of connections does not change what is drawn.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from tests.simulation.loop import SimLoop

__all__ = ["Listener", "Network", "NetworkTrouble", "ProtocolFactory"]

Address: TypeAlias = tuple[str, int]
ProtocolFactory: TypeAlias = Callable[[], asyncio.BaseProtocol]
_Kind: TypeAlias = Literal["made", "data", "end", "reset"]
#: What may be wrong between a host and all others.
NetworkTrouble: TypeAlias = Literal["cut", "silent", "refused", "unreachable", "slow"]

#: The first port that is given to a server that asks for any.
_FIRST_PORT = 9
#: The largest piece of bytes, and the numbers of pieces of a write.
_PIECE = 64 * 1024
_PIECES = (1, 1, 1, 2, 4)
#: The bytes on their way above which a writer is paused, and below which it is resumed.
_HIGH_WATER, _LOW_WATER = 64 * 1024, 16 * 1024
#: The largest delay of a slow network, in seconds, and the part of the writes that a network cuts.
_SLOW = 4.0
_CUTS = 0.3


class Network:
    """
    The network of a world.

    Args:
        seed: Seeds delays, pieces and cuts.

        delay: The largest time over the network each way, in seconds.

    Attributes:
        connections: The number of connections so far.

        written: The bytes written so far.
    """

    def __init__(self, seed: str, *, delay: float = 0.0) -> None:
        self.seed = seed
        self.delay = delay
        self.connections = 0
        self.written = 0
        self._ends: dict[_End, None] = {}
        self._listeners: dict[Address, list[Listener]] = {}
        self._addresses: WeakKeyDictionary[socket.socket, Address] = WeakKeyDictionary()
        self._troubles: dict[str, NetworkTrouble] = {}
        self._ports = count(_FIRST_PORT)
        self._random = Random(f"{seed} network")

    # -- for the loops ----------------------------------------------------------------------------------------------

    def listen(self, loop: SimLoop, factory: ProtocolFactory, host: str, port: int) -> Listener:
        """Accept connections to an address; several loops may do so, and share them."""
        listener = Listener(self, loop, factory, (host, port or next(self._ports)))
        self._listeners.setdefault(listener.address, []).append(listener)
        return listener

    async def dial(self, loop: SimLoop, sock: socket.socket, address: Address) -> None:
        """
        Find out if an address accepts connections.

        Raises:
            ConnectionRefusedError: If it does not.
        """
        await asyncio.sleep(self._random.uniform(0.0, self.delay))
        trouble = self.trouble(_host(loop), "service")
        if trouble in ("unreachable", "silent"):
            await loop.create_future()
        if trouble == "refused" or not self._listeners.get(address):
            raise _refused()
        self._addresses[sock] = address

    def connect(
        self, loop: SimLoop, factory: ProtocolFactory, sock: socket.socket
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """
        Connect to the address that was dialed.

        Raises:
            ConnectionRefusedError: If nothing accepts connections any more.
        """
        address = self._addresses.pop(sock)
        listeners = self._listeners.get(address)
        if not listeners:
            raise _refused()
        listener = self._random.choice(listeners)
        self.connections += 1
        name: Address = (loop.name, self.connections)
        client = _End(self, loop, sock, name, address)
        server = _End(self, listener.loop, socket.socket(), address, name)
        client.peer, server.peer = server, client
        server.receive("made", factory=listener.factory)
        client.make(factory)
        return client, client.get_protocol()

    def stop_listening(self, listener: Listener) -> None:
        """Refuse connections again."""
        listeners = self._listeners.get(listener.address, [])
        if listener in listeners:
            listeners.remove(listener)

    def forget(self, end: _End) -> None:
        """Note that an end is closed."""
        self._ends.pop(end, None)

    def add(self, end: _End) -> None:
        """Note that an end is open."""
        self._ends[end] = None

    def trouble(self, *hosts: str) -> NetworkTrouble | None:
        """Return what is wrong between two hosts now."""
        return next((self._troubles[host] for host in hosts if host in self._troubles), None)

    # -- for the world ----------------------------------------------------------------------------------------------

    def begin(self, trouble: NetworkTrouble, host: str) -> None:
        """Begin a trouble of a host."""
        self._troubles[host] = trouble

    def end(self, host: str) -> None:
        """End the trouble of a host; connections that have gone silent stay so."""
        self._troubles.pop(host, None)

    def heal(self) -> None:
        """End all troubles."""
        self._troubles.clear()

    def break_all(self, host: str, how: Literal["end", "reset"]) -> None:
        """Close or reset all connections of a host, at both ends."""
        for end in list(self._ends):
            if host in (_host(end.loop), _host(end.peer.loop)):
                end.receive(how)

    def lose(self, loop: SimLoop) -> None:
        """Reset all connections of a process that is over; it does not learn it."""
        for listeners in self._listeners.values():
            listeners[:] = [one for one in listeners if one.loop is not loop]
        for end in [one for one in self._ends if one.loop is loop]:
            end.die()

    def open_ends(self) -> list[str]:
        """Describe the open connections, each of its ends."""
        return [f"{end}" for end in self._ends]

    def close(self) -> None:
        """Free everything."""
        for end in list(self._ends):
            end.die()


def _refused() -> ConnectionRefusedError:
    return ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def _host(loop: SimLoop) -> str:
    """Return the host of a loop: the name without the number of its life."""
    return loop.name.partition(".")[0]


class Listener:
    """
    A server that accepts connections.

    Args:
        network: The network.

        loop: The loop that serves.

        factory: Makes the protocol of each connection.

        address: The address.
    """

    def __init__(self, network: Network, loop: SimLoop, factory: ProtocolFactory, address: Address) -> None:
        self._network = network
        self.loop = loop
        self.factory = factory
        self.address = address

    @property
    def sockets(self) -> list[Listener]:
        """The listening socket."""
        return [self]

    def getsockname(self) -> Address:
        """Return the address."""
        return self.address

    def close(self) -> None:
        """Refuse new connections."""
        self._network.stop_listening(self)

    async def wait_closed(self) -> None:
        """Do nothing: open connections are not waited for."""


class _End(asyncio.Transport):
    """
    One end of a connection.

    Args:
        network: The network.

        loop: The loop of this end.

        sock: A socket that has only options.

        own: The name of this end.

        other: The name of the other end.
    """

    peer: _End

    def __init__(self, network: Network, loop: SimLoop, sock: socket.socket, own: Address, other: Address) -> None:
        super().__init__({"socket": sock, "sockname": own, "peername": other})
        self.loop = loop
        self._network = network
        self._socket = sock
        self._random = Random(f"{network.seed} {own} {other}")
        self._protocol: asyncio.Protocol | None = None
        #: What is on its way to this end, in order, with the number of those that have arrived.
        self._incoming: deque[tuple[_Kind, bytes, ProtocolFactory | None]] = deque()
        self._arrived = 0
        self._taking = False
        self._last_arrival = 0.0
        #: The bytes of this end that the other one has not read.
        self._unread = 0
        self._writing_paused = False
        self._reading = True
        self._ended_writing = False
        self._closing = False
        self._lost = False
        self._silent = False
        network.add(self)

    def __str__(self) -> str:
        """Return the names of both ends."""
        return f"{self.get_extra_info('sockname')} to {self.get_extra_info('peername')}"

    # -- the other end ------------------------------------------------------------------------------------------------

    def receive(self, kind: _Kind, data: bytes = b"", factory: ProtocolFactory | None = None) -> None:
        """Let something arrive here after a drawn delay, after all that is on its way."""
        if self.loop.is_closed() or self._lost:
            if kind == "data":
                self._send("reset")
            return
        most = self._network.delay
        if self._trouble() == "slow":
            most += _SLOW
        now = self.loop.time()
        self._last_arrival = max(self._last_arrival, now + self._random.uniform(0.0, most) if most else now)
        self._incoming.append((kind, data, factory))
        self.loop.call_at(self._last_arrival, self._arrive)

    def make(self, factory: ProtocolFactory) -> None:
        """Begin."""
        self._protocol = cast("asyncio.Protocol", factory())
        self._protocol.connection_made(self)

    def die(self) -> None:
        """End without a word here, since the process is over; the other end is told."""
        self._lost = True
        self._socket.close()
        self._network.forget(self)
        self._send("reset")

    def _send(self, kind: _Kind, data: bytes = b"") -> None:
        if self._trouble() == "silent":
            self._silent = self.peer._silent = True
        if not self._silent:
            self.peer.receive(kind, data)

    def _trouble(self) -> NetworkTrouble | None:
        return self._network.trouble(_host(self.loop), _host(self.peer.loop))

    def _arrive(self) -> None:
        self._arrived += 1
        if not self._taking:
            self._taking = True
            self._take()

    def _take(self) -> None:
        """Pass what has arrived to the protocol, unless it does not read: one thing in each turn, as loops do."""
        kind, data, factory = self._incoming[0]
        if kind in ("data", "end") and not self._reading and not self._closing:
            self._taking = False
            return
        self._incoming.popleft()
        self._arrived -= 1
        self._taking = True
        self.loop.call_soon(self._take_next)
        if kind == "reset":
            self._lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        elif self._closing:
            if kind == "data":
                self._send("reset")  # as a system does for bytes that no process will read
        elif factory is not None:
            self.make(factory)
        elif kind == "data":
            self.peer._note_read(len(data))
            self._reader.data_received(data)
        elif not self._reader.eof_received():
            self.close()

    def _take_next(self) -> None:
        if self._arrived:
            self._take()
        else:
            self._taking = False

    @property
    def _reader(self) -> asyncio.Protocol:
        assert self._protocol is not None
        return self._protocol

    def _note_read(self, number: int) -> None:
        self._unread -= number
        if self._writing_paused and self._unread <= _LOW_WATER and not self.loop.is_closed():
            self._writing_paused = False
            self.loop.call_soon(self._resume_writing)

    def _resume_writing(self) -> None:
        if not self._lost:
            self._reader.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        """End the connection here, soon."""
        self._closing = True
        self.loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._socket.close()
        self._network.forget(self)
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    # -- for the protocol ---------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Let bytes arrive at the other end."""
        if self._ended_writing:
            msg = "Cannot call write() after write_eof()"
            raise RuntimeError(msg)
        if self._closing or self._lost or not data:
            return
        whole = bytes(data)
        self._network.written += len(whole)
        self._unread += len(whole)
        is_cut = self._trouble() == "cut" and self._random.random() < _CUTS
        if is_cut:
            whole = whole[: self._random.randint(0, len(whole))]
        for piece in self._split(whole):
            self._send("data", piece)
        if is_cut:
            self._send("reset")
            self.receive("reset")
        elif self._unread > _HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            self._reader.pause_writing()

    def _split(self, data: bytes) -> Iterator[bytes]:
        pieces = self._random.choice(_PIECES)
        places = sorted(self._random.randint(0, len(data)) for _ in range(pieces - 1))
        for first, last in zip([0, *places], [*places, len(data)], strict=True):
            for start in range(first, last, _PIECE):
                yield data[start : min(start + _PIECE, last)]

    def write_eof(self) -> None:
        """Tell the other end that nothing more comes, and read on."""
        if not self._ended_writing and not self._closing:
            self._ended_writing = True
            self._send("end")

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the connection; what was written still arrives."""
        if not self._closing:
            self._finish(reset=False)

    def abort(self) -> None:
        """Close the connection; reset it if its socket lingers for no time."""
        if not self._lost:
            lingers, seconds = struct.unpack("ii", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
            self._finish(reset=bool(lingers) and not seconds)

    def _finish(self, *, reset: bool) -> None:
        unread = any(self._incoming[index][0] == "data" for index in range(self._arrived))
        self._lose(None)
        if reset or unread:
            self._send("reset")
        elif not self._ended_writing:
            self._ended_writing = True
            self._send("end")

    def is_closing(self) -> bool:
        """Return True if the connection is closed, or being closed."""
        return self._closing

    def is_reading(self) -> bool:
        """Return True if the protocol reads."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Keep what arrives."""
        self._reading = False

    def resume_reading(self) -> None:
        """Pass on what has arrived."""
        if not self._reading and not self._closing:
            self._reading = True
            if self._arrived and not self._taking:
                self._taking = True
                self.loop.call_soon(self._take_next)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the other end has not read, beyond what systems keep."""
        return max(0, self._unread - _LOW_WATER)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the limits of the number of bytes on their way."""
        return _LOW_WATER, _HIGH_WATER

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._reader

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol."""
        self._protocol = cast("asyncio.Protocol", protocol)
