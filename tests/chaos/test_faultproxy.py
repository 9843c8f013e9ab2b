"""The fault proxy does to a connection what it is told to, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.faultproxy import FaultProxy, Spoil

HELLO = b"hello"


@dataclass
class Echo:
    """A server that answers each line with the same line; `lines` has what it got."""

    url: str
    lines: list[bytes] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)  # how connections ended, as the server saw it

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            try:
                for line in lines:
                    self.lines.append(line)
                    connection.sendall(line)
                self.ends.append("fin")
            except OSError:
                self.ends.append("reset")


@pytest.fixture
def echo() -> Iterator[Echo]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Echo(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
    yield server
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.url) as running:
        yield running


@contextlib.contextmanager
def connected(proxy: FaultProxy, timeout_s: float = 30.0) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout_s) as connection:
        yield connection


def heard(connection: socket.socket, want: int = 1_000_000) -> tuple[bytes, str]:
    """What arrives, and how it ends: whole (`want` bytes), fin, reset or silence."""
    got = b""
    try:
        while len(got) < want:
            data = connection.recv(65_536)
            if not data:
                return got, "fin"
            got += data
    except TimeoutError:
        return got, "silence"
    except ConnectionError:
        return got, "reset"
    return got, "whole"


def say(connection: socket.socket, line: bytes, timeout_s: float = 30.0) -> tuple[bytes, str]:
    connection.settimeout(timeout_s)
    connection.sendall(line + b"\n")
    return heard(connection, len(line) + 1)


def test_without_orders_everything_passes_and_is_counted(proxy: FaultProxy) -> None:
    large = b"x" * 300_000
    with connected(proxy) as connection:
        assert say(connection, HELLO) == (b"hello\n", "whole")
        assert say(connection, large) == (large + b"\n", "whole")
        connection.shutdown(socket.SHUT_WR)
        assert heard(connection) == (b"", "fin")
    assert proxy.counts["connections"] == 1
    assert proxy.counts["requests"] == proxy.counts["responses"] == 2
    assert proxy.counts["bytes_up"] == proxy.counts["bytes_down"] == 300_007
    assert not proxy.struck


@pytest.mark.parametrize(("do", "end"), [("cut", "fin"), ("reset", "reset"), ("stall", "silence")])
def test_a_response_ends_after_so_many_bytes(proxy: FaultProxy, echo: Echo, do: str, end: str) -> None:
    proxy.arm(Spoil(do, "response", after_bytes=3), after=1)  # type: ignore[arg-type]
    with connected(proxy) as connection:
        assert say(connection, HELLO) == (b"hello\n", "whole")
        got, how = say(connection, b"again", timeout_s=0.3)
    assert how == end
    assert b"aga".startswith(got) if do == "reset" else got == b"aga"  # a reset may overtake what it follows
    assert echo.lines == [b"hello\n", b"again\n"]
    assert proxy.struck == {f"response.{do}": 1}


@pytest.mark.parametrize(("do", "end"), [("cut", "fin"), ("reset", "reset"), ("stall", "silence")])
def test_a_request_ends_after_so_many_bytes_and_gets_no_response(
    proxy: FaultProxy, echo: Echo, do: str, end: str
) -> None:
    proxy.arm(Spoil(do, "request", after_bytes=3))  # type: ignore[arg-type]
    with connected(proxy) as connection:
        assert say(connection, HELLO, timeout_s=0.3) == (b"", end)
    assert b"hello\n" not in echo.lines


def test_only_responses_to_requests_that_begin_so_are_spoiled(proxy: FaultProxy) -> None:
    proxy.arm(Spoil("reset", "response", request=b"PUT "), after=1)
    with connected(proxy) as connection:
        for line in (b"GET a", b"PUT a", b"GET b"):
            assert say(connection, line)[1] == "whole"
        assert say(connection, b"PUT b") == (b"", "reset")


def test_a_delayed_request_arrives_though_its_client_is_gone(proxy: FaultProxy, echo: Echo) -> None:
    """The late PUT of a run that was killed."""
    proxy.arm(Spoil("delay", "request", seconds=1.0))
    with connected(proxy) as connection:
        connection.sendall(b"late\n")
    assert echo.lines == []
    wait_for(lambda: echo.lines == [b"late\n"])


def test_a_delayed_response_comes_late_and_whole(proxy: FaultProxy) -> None:
    proxy.arm(Spoil("delay", "response", seconds=0.3))
    with connected(proxy) as connection:
        began = time.monotonic()
        assert say(connection, HELLO) == (b"hello\n", "whole")
        assert time.monotonic() - began >= 0.3


def test_a_black_hole_accepts_and_never_answers(proxy: FaultProxy, echo: Echo) -> None:
    proxy.arm(Spoil("black_hole"))
    with connected(proxy) as connection:
        assert say(connection, HELLO, timeout_s=0.3) == (b"", "silence")
        proxy.clear()
        assert heard(connection) == (b"", "fin")
    assert echo.lines == []
    with connected(proxy) as connection:
        assert say(connection, HELLO)[1] == "whole"


def test_a_refused_connection_is_reset_and_the_one_after_it_passes(proxy: FaultProxy) -> None:
    proxy.arm(Spoil("refuse"), after=1)
    with connected(proxy) as first, connected(proxy) as second:
        assert say(first, HELLO)[1] == "whole"
        assert heard(second) == (b"", "reset")
    with connected(proxy) as third:
        assert say(third, HELLO)[1] == "whole"


def test_a_proxy_that_went_away_refuses_connections_until_it_is_back_at_its_port(proxy: FaultProxy) -> None:
    port = proxy.port
    proxy.go_away()
    with pytest.raises(ConnectionRefusedError), connected(proxy):
        pass
    proxy.restore()
    assert proxy.port == port
    with connected(proxy) as connection:
        assert say(connection, HELLO)[1] == "whole"


def test_open_connections_can_be_struck(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as first, connected(proxy) as second:
        assert say(first, HELLO)[1] == say(second, HELLO)[1] == "whole"
        assert proxy.strike(Spoil("reset")) == 2
        assert heard(first)[1] == heard(second)[1] == "reset"
    wait_for(lambda: len(echo.ends) == 2)


def test_a_half_open_connection_hides_the_end_of_one_side_from_the_other(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as connection:
        assert say(connection, HELLO)[1] == "whole"
        proxy.strike(Spoil("half_open"))
        assert say(connection, b"anyone?", timeout_s=0.2) == (b"", "silence")
    time.sleep(0.1)
    assert (echo.lines, echo.ends) == ([b"hello\n"], [])
    proxy.clear()
    wait_for(lambda: len(echo.ends) == 1)


def test_bytes_of_a_whole_connection_count_from_its_start(proxy: FaultProxy) -> None:
    proxy.arm(Spoil("cut", "connection", direction="down", after_bytes=8))
    with connected(proxy) as connection:
        assert say(connection, HELLO) == (b"hello\n", "whole")
        assert say(connection, HELLO) == (b"he", "fin")


def test_clearing_disarms(proxy: FaultProxy) -> None:
    proxy.arm(Spoil("reset", "response"), times=-1)
    proxy.clear()
    with connected(proxy) as connection:
        assert say(connection, HELLO)[1] == "whole"


def test_a_reset_of_the_server_is_a_reset_for_the_client_and_a_server_that_is_not_there_too(echo: Echo) -> None:
    with FaultProxy("http://127.0.0.1:1") as proxy:
        try:
            with connected(proxy) as connection:
                assert heard(connection) == (b"", "reset")
        except ConnectionResetError:
            pass  # it came before the connection was even through


def test_a_response_has_no_black_hole() -> None:
    with pytest.raises(ValueError, match="for connections"):
        Spoil("black_hole", "response")


def test_a_connection_string_leads_through_the_proxy(proxy: FaultProxy, echo: Echo) -> None:
    leads = proxy.stand_in_for(f"AccountName=a;BlobEndpoint={echo.url}/a;")
    assert leads == f"AccountName=a;BlobEndpoint=http://127.0.0.1:{proxy.port}/a;"


def wait_for(condition: object, at_most_s: float = 30.0) -> None:
    assert callable(condition)
    ends = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < ends, "the condition never came true"
        time.sleep(0.01)
