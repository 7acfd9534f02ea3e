"""A TCP proxy on loopback that loses what it is told to lose.

An answer: the server did the work, nobody hears of it. Or everything on the connections of now,
which stay open: neither end is told that the other one is gone.
"""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from infra.embedded import LOOPBACK

CHUNK_BYTES = 65_536


class LossyProxy:
    """Passes connections on to a port of this machine, until it is told to lose an answer."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.losses = 0
        self._lock = threading.Lock()
        self._awaited: bytes | None = None
        self._open: list[socket.socket] = []
        self._links: list[_Link] = []
        self._threads = [threading.Thread(target=self._accept)]

    def lose_answer_to(self, word: bytes) -> None:
        """Cuts the next connection that sends `word`, once the server has answered it."""
        with self._lock:
            self._awaited = word

    def fall_silent(self) -> int:
        """Passes nothing on any more over the connections of now, and keeps them open; how many."""
        with self._lock:
            living = [link for link in self._links if not link.is_over]
            for link in living:
                link.is_silent = True
        return len(living)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _close(self._listener)
        self._threads[0].join()
        for end in self._open:
            _close(end)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection((LOOPBACK, self._target_port))
                except OSError:
                    _close(client)
                    continue
                self._open += [client, server]
                link = _Link(self, client, server)
                with self._lock:
                    self._links.append(link)
                for target in (link.pass_requests, link.pass_answers):
                    thread = threading.Thread(target=target)
                    self._threads.append(thread)
                    thread.start()

    def takes(self, data: bytes) -> bool:
        """Whether this is the request whose answer is to be lost; then no other is."""
        with self._lock:
            if self._awaited is None or self._awaited not in data:
                return False
            self._awaited = None
            return True

    def note_loss(self) -> None:
        """Counts an answer that was lost."""
        with self._lock:
            self.losses += 1


class _Link:
    """One connection: two directions, a thread each."""

    def __init__(self, proxy: LossyProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._is_doomed = False
        self.is_silent = False
        self.is_over = False

    def pass_requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(CHUNK_BYTES):
                if self.is_silent:
                    continue
                self._is_doomed = self._is_doomed or self._proxy.takes(data)
                self._server.sendall(data)
        self._end()

    def pass_answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(CHUNK_BYTES):
                if self.is_silent:
                    continue
                if self._is_doomed:
                    self._proxy.note_loss()
                    break
                self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        self.is_over = True
        _close(self._client)
        _close(self._server)


def _close(end: socket.socket) -> None:
    """Ends a socket for whoever waits on it, too."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
