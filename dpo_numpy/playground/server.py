"""The page on the loopback address, from the standard library's server.

    GET, HEAD   /  /style.css  /play.js  /python.zip       what `FILES` lists, and nothing by a path of the disk
    POST        /evaluate  params -> numbers               /show  params -> numbers and the parts of the page

Whoever runs a browser on this machine also runs the pages of strangers in it: requests must name this host, and those
with a body must come from this page or from no page. Every refusal is `{"error": sentence}`.
"""

from __future__ import annotations

import errno
import io
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, NoReturn
from urllib.parse import urlsplit

from .evaluation import evaluate

__all__ = ["Server", "listen", "parsed", "policy"]

HOST, PORTS_TRIED = "127.0.0.1", 20
HEAD, BODY = 16_384, 16_384  # bytes of a request's lines, and of what follows them
BRACKETS = 50
IDLE, PATIENCE = 60.0, 10.0  # seconds until a request begins, and until it is complete
CONNECTIONS = 64


def parsed(body: bytes) -> Any:
    """The JSON value of `body`, read strictly: UTF-8, no duplicate names, no NaN or Infinity; else `ValueError`

    >>> parsed(b'{"beta": 0.1}')
    {'beta': 0.1}
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is not UTF-8 at byte {error.start}; expected JSON in UTF-8") from error

    if (brackets := text.count("[") + text.count("{")) > BRACKETS:  # before a parser follows them down
        raise ValueError(f"the body opens {brackets} brackets; expected at most {BRACKETS}")

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            raise ValueError("the body names one thing twice; expected each name once")
        return found

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"the body holds {name}, which is no JSON; expected finite numbers")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON at character {error.pos}; expected an object") from error
    except ValueError as error:
        if "digits" in str(error):  # the interpreter's own limit on whole numbers
            raise ValueError("the body holds a whole number of thousands of digits; expected fewer") from error
        raise


def policy(pyodide: str | None = None, wasm: bool = False) -> str:
    """The Content-Security-Policy: this origin alone; WebAssembly if asked; that and its origin if `pyodide` is a URL

    >>> policy("https://cdn.example/pyodide/").split("; ")[1]
    "script-src 'self' 'wasm-unsafe-eval' https://cdn.example"
    """
    more = "" if pyodide is None else f" {origin(pyodide)}"
    compiled = " 'wasm-unsafe-eval'" if wasm or more else ""
    return (f"default-src 'none'; script-src 'self'{compiled}{more}; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self'{more}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def origin(url: str) -> str:
    """https://host:port of a URL that is safe to name in a header; else `ValueError`"""
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._/@+-]*", url):
        raise ValueError(f"pyodide is {ascii(url)[:80]}; expected a URL as https://host/folder/")
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc}"


@cache
def _asset(name: str) -> bytes:
    return files(__package__).joinpath("assets", name).read_bytes()


def _archive() -> bytes:
    from .build import archive

    return archive()


def _show(params: Mapping[str, Any]) -> dict[str, Any]:
    from .view import show

    return show(params)


#: path -> content type, and what makes the content
FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "/": ("text/html; charset=utf-8", lambda: _asset("index.html")),
    "/style.css": ("text/css; charset=utf-8", lambda: _asset("style.css")),
    "/play.js": ("text/javascript; charset=utf-8", lambda: _asset("play.js")),
    "/python.zip": ("application/zip", _archive),
}
QUESTIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"/evaluate": evaluate, "/show": _show}


class Refusal(Exception):
    """An answer that is no success; the connection ends with it, as what was not read may still be under way."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        self.status, self.sentence = status, sentence


class Patience(io.RawIOBase):
    """A socket's bytes until a deadline for the whole request, however many pieces it comes in."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.expect()

    def expect(self) -> None:
        """The next request may take its time to begin."""
        self.begun, self.deadline = False, time.monotonic() + IDLE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        count = self.connection.recv_into(buffer)
        if not self.begun:
            self.begun, self.deadline = True, time.monotonic() + PATIENCE
        return count


class Head(io.BufferedReader):
    """Lines up to `HEAD` bytes in all; the body does not count."""

    left = HEAD

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(self.left + 1)
        self.left -= len(line)
        if self.left < 0:
            raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                          f"the request's lines are longer than {HEAD} bytes; expected fewer")
        return line


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits up to 40 ms for the acknowledgement of its own first half
    wbufsize = -1

    def version_string(self) -> str:
        return "dpo-numpy"

    def setup(self) -> None:
        super().setup()
        self.patience = Patience(self.connection)
        self.rfile.close()
        self.rfile = self.lines = Head(self.patience)

    def handle_one_request(self) -> None:
        self.lines.left, self.close_connection = HEAD, True
        self.command, self.request_version, self.requestline = "", "HTTP/1.1", ""  # until its first line is read
        self.patience.expect()
        try:
            super().handle_one_request()
            self.wfile.flush()
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.sentence)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        """Who waits for leave to send its body is told now: what is written stays in a buffer until then."""
        allowed = super().handle_expect_100()
        self.wfile.flush()
        return allowed

    def do_GET(self) -> None:
        self._check_host()
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{self.command} came with a body; expected none")
        path = self.path.partition("?")[0]
        if path not in FILES:
            allowed = path in QUESTIONS
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED if allowed else HTTPStatus.NOT_FOUND,
                          f"{path} is asked by POST" if allowed else f"there is no {ascii(path)[:80]} here; "
                          f"expected one of {', '.join((*FILES, *QUESTIONS))}")
        kind, content = FILES[path]
        self._answer(HTTPStatus.OK, kind, content())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._check_host()
        self._check_sender()
        path = self.path.partition("?")[0]
        if path not in QUESTIONS:
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED if path in FILES else HTTPStatus.NOT_FOUND,
                          f"{ascii(path)[:80]} takes no POST; expected one of {', '.join(QUESTIONS)}")
        body = self._body()
        try:
            answer = json.dumps(QUESTIONS[path](parsed(body)), allow_nan=False).encode()
        except ValueError as error:
            self._answer(HTTPStatus.BAD_REQUEST, "application/json", _error(str(error)))
        except Exception as error:
            print(f"dpo-numpy play: {type(error).__name__} in {path}: {ascii(str(error))[:200]}", file=sys.stderr)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "application/json",
                         _error("this is a mistake of the program, not of the request"))
        else:
            self._answer(HTTPStatus.OK, "application/json", answer)

    def _check_host(self) -> None:
        given = self.headers.get_all("Host") or []
        if len(given) != 1 or given[0].strip().lower() not in self.server.names:
            raise Refusal(HTTPStatus.MISDIRECTED_REQUEST if given else HTTPStatus.BAD_REQUEST,
                          f"Host is {ascii(given[0])[:80] if given else 'missing'}; expected "
                          f"{' or '.join(self.server.names)}")

    def _check_sender(self) -> None:
        """From this page or from no page: a stranger's page cannot hide where it comes from."""
        for sender in self.headers.get_all("Origin") or []:
            if sender.strip().lower() not in {f"http://{name}" for name in self.server.names}:
                raise Refusal(HTTPStatus.FORBIDDEN, f"Origin is {ascii(sender)[:80]}; expected this page's own")
        for site in self.headers.get_all("Sec-Fetch-Site") or []:
            if site.strip().lower() not in ("same-origin", "none"):
                raise Refusal(HTTPStatus.FORBIDDEN, f"Sec-Fetch-Site is {ascii(site)[:80]}; expected same-origin")

    def _body(self) -> bytes:
        kind = self.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                          f"Content-Type is {ascii(kind)[:80]}; expected application/json")
        if "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "Transfer-Encoding is not read here; expected a Content-Length")
        lengths = self.headers.get_all("Content-Length") or []
        if not lengths:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing; expected the body's bytes")
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,18}", lengths[0].strip(), re.ASCII):
            raise Refusal(HTTPStatus.BAD_REQUEST,
                          f"Content-Length is {ascii(', '.join(lengths))[:80]}; expected one whole number")
        length = int(lengths[0])
        if length > BODY:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                          f"the body has {length} bytes; expected at most {BODY}")
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the body ended after {len(body)} bytes; expected {length}")
        return body

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        if self.request_version == "HTTP/0.9":  # which has no headers, not even to be refused by
            self.request_version = "HTTP/1.0"
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(content))), ("Cache-Control", "no-store"),
            ("Content-Security-Policy", self.server.policy), ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"), ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD, POST")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.connection.settimeout(PATIENCE)
        self.wfile.flush()
        if self.command != "HEAD":
            self.connection.sendall(content)  # whose time is that of all of it: who reads nothing is let go

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        """Say no and hang up; what is still under way is read for a moment, or the answer would be lost with it."""
        self.close_connection = True
        try:
            self._answer(status, "application/json", _error(sentence))
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(0.5)
            until = time.monotonic() + 1
            while time.monotonic() < until and self.connection.recv(65_536):
                pass
        except OSError:
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses: a request that is none, an unknown method, an unknown version."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, f"{ascii(self.command)[:80]} is no method here; " \
                                                           "expected GET, HEAD or POST"
        self._refuse(HTTPStatus(code), (message or HTTPStatus(code).phrase)[:200])

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows the address, and mistakes of ours."""


def _error(sentence: str) -> bytes:
    return json.dumps({"error": " ".join(sentence.split())}).encode()


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`; `port` is the one it got.

    Raises `OSError` where the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # there it would take a port that somebody listens on
    request_queue_size = 64

    def __init__(self, port: int = 0, pyodide: str | None = None) -> None:
        self.policy = policy(pyodide)
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__((HOST, port), Handler)
        self.port = int(self.server_address[1])
        self.names: tuple[str, ...] = (f"{HOST}:{self.port}", f"localhost:{self.port}")
        if self.port == 80:  # which browsers leave out
            self.names = (*self.names, HOST, "localhost")

    def server_bind(self) -> None:
        """As above, without asking who we are: the base class looks up a name, which may take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where a browser finds the page"""
        return f"http://{HOST}:{self.port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sentence in place of a traceback; nothing where the other side has left."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"dpo-numpy play: {type(error).__name__}: {ascii(str(error))[:200]}", file=sys.stderr)


def listen(port: int, pyodide: str | None = None) -> Server:
    """A server at that port, or at the next one that is free; 0 lets the system choose

    Raises `ValueError` on a port that is none, and where all that were tried are taken.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ValueError(f"port is {port}; expected a whole number from 0 to 65535")
    last = min(port + PORTS_TRIED - 1, 65_535) if port else 0
    for candidate in range(port, last + 1):
        try:
            return Server(candidate, pyodide)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ValueError(f"port {candidate} of {HOST} cannot be listened at: {error.strerror}") from error
            reason = error.strerror
    raise ValueError(f"port is {port}: none from {port} to {last} can be listened at ({reason}); "
                     "expected a free one, or 0 to let the system choose")
