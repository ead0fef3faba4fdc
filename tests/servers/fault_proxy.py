"""A proxy between a client and an S3 server that goes wrong on request, for tests and measurements."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["black_hole", "drop_response", "unavailable", "refuse", "truncate", "flip_up", "flip_down"]
_PIECE = 64 << 10
_ANSWERS = {"unavailable": (503, "ServiceUnavailable"), "refuse": (403, "AccessDenied")}


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests that match.

    Attributes:
        kind: ``black_hole`` (read and never answered), ``drop_response`` (done by the server, connection closed
            instead of the answer), ``unavailable`` (503), ``refuse`` (403), ``truncate`` (connection closed within the
            answer's body), ``flip_up`` and ``flip_down`` (one bit of the body inverted on its way).
        method: only requests with this HTTP method; empty for any.
        part: only requests whose target contains this text.
        times: how many requests.
        after_bytes: offset in the body at which ``truncate`` and the flips strike.
    """

    kind: Kind
    method: str = ""
    part: str = ""
    times: int = 1
    after_bytes: int = 0


@dataclass
class Request:
    """One request that came by: its method and target, and which fault it met."""

    method: str
    target: str
    fault: str = ""
    answered: bool = field(default=False, compare=False)


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes HTTP requests on to ``upstream_port``.

    Attributes:
        requests: every request so far, in order.
        bytes_per_s: most bytes per second of all bodies together, each way; None for no limit.
        on_request: called with each request before it is passed on; in the proxy's thread.
        connected: while False, every connection is closed at once, as if the server were down.
    """

    def __init__(self, upstream_port: int) -> None:
        self.requests: list[Request] = []
        self.bytes_per_s: float | None = None
        self.on_request: Callable[[Request], None] | None = None
        self.connected = True
        self._upstream_port = upstream_port
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._free_at = {"up": 0.0, "down": 0.0}
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        if not self._ready.wait(20):
            raise RuntimeError("the fault proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        if self._thread.is_alive():
            raise RuntimeError("the fault proxy did not end")
        self._loop.close()

    def inject(self, kind: Kind, *, method: str = "", part: str = "", times: int = 1, after_bytes: int = 0) -> Fault:
        """Let the next ``times`` matching requests go wrong; see ``Fault``."""
        fault = Fault(kind, method, part, times, after_bytes)
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget every fault that has not struck yet, and connect again."""
        with self._lock:
            self._faults.clear()
        self.connected = True

    # ------------------------------------------------------------------ in the proxy's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=2))

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_server: asyncio.StreamWriter | None = None
        try:
            if not self.connected:
                return
            server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            while await self._exchange(client, to_client, server, to_server):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.close()

    async def _exchange(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; whether the connection stays open."""
        head = await client.readuntil(b"\r\n\r\n")
        if not self.connected:
            return False
        method, target = head.split(b" ", 2)[:2]
        request = Request(method.decode(), target.decode())
        fault = self._next_fault(request)
        kind = fault.kind if fault else ""
        request.fault = kind
        self.requests.append(request)
        if self.on_request is not None:
            self.on_request(request)
        if kind == "black_hole":
            while await client.read(_PIECE):
                pass
            return False
        if kind in _ANSWERS:
            status, code = _ANSWERS[kind]
            body = f"<Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
            to_client.write(f"HTTP/1.1 {status} {code}\r\nConnection: close\r\n".encode())
            to_client.write(f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            to_client.write(b"" if method == b"HEAD" else body.encode())  # which has an answer without a body
            await to_client.drain()
            return False
        flip = fault.after_bytes if fault and kind == "flip_up" else None
        to_server.write(head)
        await to_server.drain()
        sending = asyncio.ensure_future(self._body(head, client, to_server, "up", flip=flip))
        try:
            keep = await self._answer(method, fault, server, to_client)
            if keep:
                await asyncio.wait_for(sending, 60)
            return keep
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sending

    async def _answer(
        self, method: bytes, fault: Fault | None, server: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> bool:
        kind = fault.kind if fault else ""
        while True:
            head = await server.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if kind == "drop_response" and status != 100:
                return False
            to_client.write(head)
            await to_client.drain()
            if status != 100:
                break
        if method == b"HEAD" or status in (204, 304):
            return True
        flip = fault.after_bytes if fault and kind == "flip_down" else None
        limit = fault.after_bytes if fault and kind == "truncate" else None
        return await self._body(head, server, to_client, "down", flip=flip, limit=limit)

    async def _body(
        self,
        head: bytes,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        way: str,
        *,
        flip: int | None = None,
        limit: int | None = None,
    ) -> bool:
        """Pass a body on; False if it was cut off."""
        lines = (line.partition(b":") for line in head.split(b"\r\n")[1:] if b":" in line)
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        passed = 0
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            while True:
                line = await source.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                sink.write(line + await source.readexactly(size + 2))
                await sink.drain()
                if size == 0:
                    return True
        length = int(headers.get(b"content-length", b"0"))
        while passed < length:
            piece = bytearray(await source.read(min(_PIECE, length - passed)))
            if not piece:
                return False
            if flip is not None and passed <= flip < passed + len(piece):
                piece[flip - passed] ^= 1
            if limit is not None and passed + len(piece) > limit:
                sink.write(bytes(piece[: limit - passed]))
                await sink.drain()
                return False
            await self._wait_turn(way, len(piece))
            sink.write(bytes(piece))
            await sink.drain()
            passed += len(piece)
        return True

    async def _wait_turn(self, way: str, count: int) -> None:
        rate = self.bytes_per_s
        if rate is None:
            return
        now = time.monotonic()
        start = max(self._free_at[way], now)
        self._free_at[way] = start + count / rate
        await asyncio.sleep(max(0.0, self._free_at[way] - now))

    def _next_fault(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method in ("", request.method) and fault.part in request.target:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                    return fault
        return None


def main(upstream_port: str, bytes_per_s: str) -> None:
    """Pass requests on at most at this rate, until standard input ends; prints the URL."""
    with FaultProxy(int(upstream_port)) as proxy:
        proxy.bytes_per_s = float(bytes_per_s)
        print(proxy.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
