"""The page's server: what it serves, whom it refuses, and that nothing which arrives on a socket stops it."""

import http.client
import json
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import closing
from io import BytesIO

import pytest

from dpo_numpy import cli
from dpo_numpy.playground import evaluate, server, view
from dpo_numpy.playground.evaluation import DEFAULTS

PAIR = DEFAULTS["pair"]


@pytest.fixture
def running():
    with server.Server() as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def asked(served, method="GET", path="/", body=None, headers=None, remove=()):
    """(status, headers, bytes): a request as a browser of this page would send it, but for what is changed"""
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        of_body = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(body))}
        given = {"Host": f"127.0.0.1:{served.port}", **of_body, **(headers or {})}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if name not in remove:
                for each in value if isinstance(value, list) else [value]:
                    connection.putheader(name, each)
        connection.endheaders()
        if body:
            connection.send(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def said(answer):
    status, headers, body = answer
    assert headers["Content-Type"] == "application/json"
    found = json.loads(body)
    assert found.keys() == {"error"} and "\n" not in found["error"] and "Traceback" not in found["error"]
    return status, found["error"]


def raw(served, data, read=True):
    """What comes back for bytes on a socket, until the server hangs up or is silent for a moment."""
    with closing(socket.create_connection(("127.0.0.1", served.port), timeout=10)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65_536):
            found += piece
        return found


# ---- what it serves

@pytest.mark.parametrize(("path", "kind"), [
    ("/", "text/html; charset=utf-8"), ("/style.css", "text/css; charset=utf-8"),
    ("/play.js", "text/javascript; charset=utf-8"), ("/python.zip", "application/zip"),
])
def test_files(path, kind, running):
    status, headers, body = asked(running, path=path)
    assert (status, headers["Content-Type"], int(headers["Content-Length"])) == (200, kind, len(body))
    assert len(body) > 5000
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control"):
        assert headers[name]
    again = asked(running, "HEAD", path)
    assert again[0] == 200 and again[2] == b"" and again[1]["Content-Length"] == str(len(body))
    assert asked(running, path=f"{path}?pyodide=x")[2] == body


def test_headers_are_strict(running):
    headers = asked(running)[1]
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy == {"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:",
                      "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'",
                      "frame-ancestors": "'none'"}
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["Server"] == "dpo-numpy"  # and not which Python


def test_the_archive_is_a_zip(running):
    names = zipfile.ZipFile(BytesIO(asked(running, path="/python.zip")[2])).namelist()
    assert "dpo_numpy/playground/view.py" in names and all(name.startswith("dpo_numpy/") for name in names)


@pytest.mark.parametrize("defaults", DEFAULTS.values(), ids=DEFAULTS)
def test_questions(defaults, running):
    body = json.dumps(defaults).encode()
    assert json.loads(asked(running, "POST", "/evaluate", body)[2]) == evaluate(defaults)
    assert json.loads(asked(running, "POST", "/show", body)[2]) == view.show(defaults)


def test_a_connection_serves_many_requests(running):
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)) as connection:
        for method, path in [("GET", "/"), ("POST", "/evaluate"), ("HEAD", "/play.js"), ("POST", "/show")] * 3:
            body = json.dumps(PAIR) if method == "POST" else None
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            assert answer.status == 200 and not answer.will_close
            answer.read()


def test_a_bad_value_does_not_end_the_connection(running):
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)) as connection:
        for beta, status in ((0, 400), (0.1, 200)):
            connection.request("POST", "/evaluate", json.dumps({**PAIR, "beta": beta}),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == status and not answer.will_close
            answer.read()


def test_requests_that_follow_each_other_unasked_are_answered_in_order(running):
    one = f"GET /style.css HTTP/1.1\r\nHost: localhost:{running.port}\r\n\r\n".encode()
    assert raw(running, one * 3).count(b"HTTP/1.1 200 OK\r\n") == 3


def test_who_waits_for_leave_gets_it(running):
    body = json.dumps(PAIR).encode()
    head = (f"POST /evaluate HTTP/1.1\r\nHost: localhost:{running.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n")
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=5)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


# ---- whom it refuses

@pytest.mark.parametrize(("path", "status"), [
    ("/index.html", 404), ("/../setup.cfg", 404), ("/%2e%2e/setup.cfg", 404),
    ("//etc/passwd", 404), ("/assets/play.js", 404), ("/evaluate", 405),
    ("http://127.0.0.1/", 404), ("/\\..\\x", 404), ("*", 404), ("/play.js/", 404),
])
def test_paths_are_those_of_the_list(path, status, running):
    assert said(asked(running, path=path))[0] == status


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.2:PORT",
                                  "[::1]:PORT", "localhost.example.com:PORT", "PORT", "", "evil@127.0.0.1:PORT",
                                  "0.0.0.0:PORT"])
def test_other_hosts_are_refused(host, running):
    """A stranger's name that resolves to this machine (DNS rebinding) must not read the page."""
    host = host.replace("PORT", str(running.port))
    status, sentence = said(asked(running, headers={"Host": host}))
    assert status == 421 and sentence.startswith("Host is ") and f"localhost:{running.port}" in sentence
    assert said(asked(running, "POST", "/evaluate", b"{}", {"Host": host}))[0] == 421


def test_a_host_is_named_once(running):
    assert said(asked(running, remove=["Host"])) == (400, f"Host is missing; expected 127.0.0.1:{running.port} or "
                                                          f"localhost:{running.port}")
    good = f"localhost:{running.port}"
    assert said(asked(running, headers={"Host": [good, good]}))[0] == 421
    assert asked(running, headers={"Host": good.upper()})[0] == 200


@pytest.mark.parametrize(("headers", "status"), [
    ({"Origin": "https://example.com"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Origin": "https://localhost:PORT"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403), ({"Origin": ["http://localhost:PORT", "https://example.com"]}, 403),
    ({"Content-Type": "text/plain"}, 415), ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Type": "application/jsonp"}, 415),
    ({"Origin": "http://localhost:PORT", "Sec-Fetch-Site": "same-origin"}, 200),
    ({"Origin": "http://127.0.0.1:PORT"}, 200), ({"Sec-Fetch-Site": "none"}, 200),
    ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
])
def test_senders(headers, status, running):
    filled = {name: json.loads(json.dumps(value).replace("PORT", str(running.port))) for name, value in headers.items()}
    answer = asked(running, "POST", "/evaluate", json.dumps(PAIR).encode(), filled)
    assert answer[0] == status
    assert status == 200 or said(answer)


@pytest.mark.parametrize(("length", "status"), [
    (None, 411), ("", 400), ("-1", 400), ("1.0", 400), ("0x10", 400), ("1e3", 400), ("+5", 400), ("٣", 400),
    ("16385", 413), ("999999999999", 413), ("9" * 30, 400), (["2", "2"], 400), ("2, 2", 400),
])
def test_lengths(length, status, running):
    headers = {} if length is None else {"Content-Length": [each.encode() for each in length]
                                         if isinstance(length, list) else length.encode()}
    answer = asked(running, "POST", "/evaluate", b"{}", headers, ["Content-Length"] if length is None else [])
    assert said(answer)[0] == status and answer[1]["Connection"] == "close"


def test_a_body_as_long_as_the_limit_is_read(running):
    body = json.dumps(PAIR).encode().ljust(server.BODY)
    assert asked(running, "POST", "/evaluate", body)[0] == 200
    assert said(asked(running, "POST", "/evaluate", body + b" "))[0] == 413
    assert said(asked(running, "POST", "/evaluate", body * 60))[0] == 413


def test_a_body_cut_short_is_refused(running):
    head = f"POST /evaluate HTTP/1.1\r\nHost: localhost:{running.port}\r\nContent-Type: application/json\r\n"
    found = raw(running, f"{head}Content-Length: 10\r\n\r\n{{}}".encode())
    assert found.startswith(b"HTTP/1.1 400") and b"ended after 2 bytes; expected 10" in found


def test_chunks_are_refused_and_end_the_connection(running):
    head = f"POST /evaluate HTTP/1.1\r\nHost: localhost:{running.port}\r\nContent-Type: application/json\r\n"
    smuggled = f"GET / HTTP/1.1\r\nHost: localhost:{running.port}\r\n\r\n"
    found = raw(running, f"{head}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n{smuggled}".encode())
    assert found.startswith(b"HTTP/1.1 411") and found.count(b"HTTP/1.1") == 1
    with_body = f"GET / HTTP/1.1\r\nHost: localhost:{running.port}\r\nContent-Length: {len(smuggled)}\r\n\r\n{smuggled}"
    found = raw(running, with_body.encode())
    assert found.startswith(b"HTTP/1.1 400") and found.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "X"])
def test_methods(method, running):
    answer = asked(running, method)
    assert said(answer)[0] == 405 and answer[1]["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(("data", "status"), [
    (b"\r\n", None), (b"GET /\r\n", b"400"), (b"GET / HTTP/9.9\r\n\r\n", b"505"), (b"GET / HTTP/1.1.1\r\n\r\n", b"400"),
    (b"nonsense\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"431"), (b"GET / HTTP/1.1\r\na: " + b"b" * 20_000, b"431"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"), (b"GET / HTTP/1.1\r\n\xff\xfe: \x00\r\n\r\n", b"400"),
])
def test_what_is_no_request(data, status, running):
    found = raw(running, data)
    assert (found == b"") if status is None else re.match(rb"HTTP/1\.[01] " + status, found), found[:200]
    if found:
        assert json.loads(found.partition(b"\r\n\r\n")[2]).keys() == {"error"}


BAD_JSON = {
    b"": "no JSON at character 0", b"{": "no JSON", b"[1, 2": "no JSON", b"{'a': 1}": "no JSON", b"nul": "no JSON",
    b"\xff": "not UTF-8 at byte 0", b"\xef\xbb\xbf{}": "no JSON", b'{"panel": "run"} x': "no JSON",
    b'{"a": 1, "a": 1}': "names one thing twice", b'{"beta": NaN}': "holds NaN",
    b'{"beta": -Infinity}': "holds -Infinity", b"9" * 10_000: "thousands of digits",
    b"[" * 16_000: "opens 16000 brackets", b'{"a":' * 3000: "opens 3000 brackets",
    b"[" * 51 + b"]" * 51: "opens 51 brackets", b"[" * 50 + b"]" * 50: "params is a list of 1",
    b"1e999": "params is inf", b"3": "params is 3", b'"\\ud800"': "params is '\\ud800'", b"[]": "params is a list of 0",
    b"{}": "panel is missing", b'{"panel": "\\ud800"}': "panel is '\\ud800'", b'{"panel": []}': "panel is a list of 0",
    b'{"panel": "pair", "\\udfff": 1}': "'\\udfff' is no parameter of pair",
}


@pytest.mark.parametrize(("body", "sentence"), BAD_JSON.items(), ids=lambda x: repr(x[:20]))
def test_bad_bodies(body, sentence, running, capfd):
    for path in server.QUESTIONS:
        status, error = said(asked(running, "POST", path, body))
        assert status == 400 and sentence in error and len(error) < 300
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e400", "-1e400", "1e-400", "true", "null", '"1"', "[0.1]", "{}"])
def test_numbers_beyond_numbers(value, running):
    body = json.dumps({**PAIR, "beta": "HERE"}).replace('"HERE"', value).encode()
    status, error = said(asked(running, "POST", "/evaluate", body))
    assert status == 400 and error.startswith("beta is ") and error.endswith("; expected a number from 0.01 to 10")


def test_a_mistake_of_ours_is_a_sentence_on_both_sides(running, monkeypatch, capfd):
    def broken(params):
        raise KeyError("secret")

    monkeypatch.setitem(server.QUESTIONS, "/evaluate", broken)
    assert said(asked(running, "POST", "/evaluate", b"{}")) == (
        500, "this is a mistake of the program, not of the request")
    out, err = capfd.readouterr()
    assert out == "" and err == "dpo-numpy play: KeyError in /evaluate: \"'secret'\"\n"
    monkeypatch.setattr(server.Handler, "do_GET", broken)
    raw(running, f"GET / HTTP/1.1\r\nHost: localhost:{running.port}\r\n\r\n".encode())
    assert re.fullmatch(r"dpo-numpy play: KeyError: .*\n", capfd.readouterr().err)


def test_a_slow_client_is_let_go(running, monkeypatch):
    """Byte by byte, each in time: the whole request is late all the same."""
    monkeypatch.setattr(server, "PATIENCE", 0.5)
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=10)) as connection:
        began, gone = time.monotonic(), False
        while time.monotonic() - began < 8 and not gone:
            try:
                connection.sendall(b"G")
            except OSError:
                gone = True
            time.sleep(0.05)
    assert gone


def test_an_idle_client_is_let_go(running, monkeypatch):
    monkeypatch.setattr(server, "IDLE", 0.2)
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=8)) as connection:
        assert connection.recv(1) == b""


def test_a_client_that_reads_nothing_is_let_go(running, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    monkeypatch.setitem(server.FILES, "/play.js", ("text/plain", lambda: bytes(50_000_000)))  # more than buffers hold
    threads = threading.active_count()
    with closing(socket.create_connection(("127.0.0.1", running.port), timeout=10)) as connection:
        connection.sendall(f"GET /play.js HTTP/1.1\r\nHost: localhost:{running.port}\r\n\r\n".encode())
        assert connection.recv(1) == b"H"
        for _ in range(100):
            if threading.active_count() == threads:
                break
            time.sleep(0.05)
        assert threading.active_count() == threads


def test_too_many_connections_are_turned_away_and_the_rest_served(running, monkeypatch):
    crowd = []
    try:
        for _ in range(server.CONNECTIONS + 8):
            crowd.append(socket.create_connection(("127.0.0.1", running.port), timeout=10))
        turned_away = select.select(crowd, [], [], 10)[0]
        assert turned_away and all(connection.recv(1) == b"" for connection in turned_away)
    finally:
        for connection in crowd:
            connection.close()
    for _ in range(100):  # until their threads have noticed
        try:
            assert asked(running)[0] == 200
            break
        except OSError:
            time.sleep(0.05)
    else:
        pytest.fail("the server did not come back")


def test_only_this_machine_is_listened_to(running):
    assert running.server_address[0] == "127.0.0.1"


# ---- Pyodide

@pytest.mark.parametrize("url", ["", "x", "javascript:alert(1)", "https://a b/", "https://a/;script-src *",
                                 "https://u:p@a/", "https://a/'", "//a/", "https://a", "ftp://a/", "https://a/\r\nX: y",
                                 "https://a/?x"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match=r"^pyodide is .*; expected a URL as https://host/folder/$"):
        server.policy(url)


def test_the_policy_is_widened_by_the_command_and_not_by_a_link(running):
    plain = asked(running, path="/?pyodide=https://cdn.example/pyodide/")[1]["Content-Security-Policy"]
    assert "cdn.example" not in plain and "wasm" not in plain
    with server.Server(pyodide="http://127.0.0.1:9999/p/") as other:
        assert "script-src 'self' 'wasm-unsafe-eval' http://127.0.0.1:9999;" in other.policy
        assert "connect-src 'self' http://127.0.0.1:9999;" in other.policy


# ---- ports, and the command

def test_the_next_free_port_is_taken():
    with server.listen(0) as first:
        if first.port > 65_000:
            pytest.skip("the system chose one of the last ports")
        with server.listen(first.port) as second:
            assert first.port < second.port < first.port + server.PORTS_TRIED


def test_no_free_port_is_a_sentence(monkeypatch):
    with server.listen(0) as first:
        monkeypatch.setattr(server, "PORTS_TRIED", 1)
        with pytest.raises(ValueError, match=rf"^port is {first.port}: none from {first.port} to {first.port} can be "):
            server.listen(first.port)


@pytest.mark.parametrize("port", [-1, 65_536, 10**9, True, 1.5])
def test_ports_that_are_none(port):
    with pytest.raises(ValueError, match=r"^port is .*; expected a whole number from 0 to 65535$"):
        server.listen(port)


@pytest.mark.parametrize(("words", "sentence"), [
    (["--port", "70000"], "port is 70000; expected a whole number from 0 to 65535"),
    (["--port", "-1"], "port is -1; expected"), (["--port", "x"], "invalid int value: 'x'"),
    (["--port", "0", "--pyodide", "x"], "pyodide is 'x'; expected a URL"),
])
def test_the_command_refuses_in_a_sentence(words, sentence, capsys):
    assert cli.main(["play", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("dpo-numpy: ") and sentence in err and err.count("\n") == 1


def started(*words):
    process = subprocess.Popen(  # a shell's background job would pass on that SIGINT is ignored
        [sys.executable, "-m", "dpo_numpy", "play", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    lines = []
    while not lines or "Ctrl-C" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return process, lines


def test_the_command_serves_until_ctrl_c():
    with server.listen(0) as taken:
        process, lines = started("--port", str(min(taken.port, 65_000)), "--no-browser")
        try:
            found = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/ in a browser \(Ctrl-C ends\)\n", lines[-1])
            assert len(lines) == 1 or lines[0] == f"port {taken.port} cannot be had: listening at {found[1]}\n"
            port = int(found[1])
            assert port != taken.port
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                connection.request("POST", "/evaluate", json.dumps(PAIR), {"Content-Type": "application/json"})
                assert json.loads(connection.getresponse().read()) == evaluate(PAIR)
                process.send_signal(signal.SIGINT)  # though a connection is open
                assert process.wait(20) == 0
        finally:
            process.kill()
        out, err = process.communicate()
        assert (out.strip(), err) == ("", "")


@pytest.mark.parametrize(("environ", "took", "line"), [
    ({"DISPLAY": ":0"}, True, "is open in your browser"), ({"DISPLAY": ":0"}, False, "in a browser"),
    ({}, True, "in a browser"),
])
def test_a_browser_is_opened_where_there_is_one(environ, took, line, monkeypatch, capsys):
    opened = []
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or took)

    def interrupted(self, poll_interval):
        raise KeyboardInterrupt

    monkeypatch.setattr(server.Server, "serve_forever", interrupted)
    assert cli.main(["play", "--port", "0", "--pyodide", "https://cdn.example/p@1+2/"]) == 0
    out = capsys.readouterr().out
    assert line in out and "/?pyodide=https://cdn.example/p@1%2B2/" in out  # a + would be read as a space
    assert len(opened) == bool(environ) and all(url in out for url in opened)


# ---- the fuzzer

def mutated(data, chance):
    """Some bytes changed, dropped, doubled, moved; or a piece repeated many times."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] = chance.randrange(256)
            case 1:
                del data[at:at + chance.randint(1, 12)]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 12))
            case 3:
                data[at:at] = data[at:at + 20] * chance.randint(1, 40)
            case 4:
                other = chance.randrange(len(data) + 1)
                data[at:at + 8], data[other:other + 8] = data[other:other + 8], data[at:at + 8]
            case 5:
                data[at:at] = chance.choice([b"\r\n", b"\x00", b":", b"NaN", b"1e400", b"[", b"{", b'"', b"\\ud800",
                                             b" ", b"\xff", b"-", b"9" * 400, b'{"a":', b"HTTP/1.1",
                                             b"Content-Length: 7\r\n"])
    return bytes(data)


def requests(served, chance):
    """Endless: random bytes, mutated requests, sound ones with mutated JSON or wrong values, sound ones."""
    host = f"Host: 127.0.0.1:{served.port}\r\n".encode()
    while True:
        panel = chance.choice(["derivation", "pair", "curves", "pair"])
        params = dict(DEFAULTS[panel])
        body = json.dumps(params).encode()
        kind = chance.randrange(6)
        if kind == 0:
            yield chance.randbytes(chance.randint(0, 300))
            continue
        if kind == 1:
            name = chance.choice(list(params))
            params[name] = chance.choice([None, True, -1, 1e300, "x", [], {}, [[]], 10**30, chance.uniform(-20, 20)])
            body = json.dumps(params).encode()
        if kind in (2, 3):
            body = mutated(body, chance)
        path = chance.choice([b"/evaluate", b"/show"])
        sound = (b"POST " + path + b" HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\nContent-Length: "
                 + str(len(body)).encode() + b"\r\n\r\n" + body)
        yield mutated(sound, chance) if kind in (3, 4) else sound


def fuzz(served, count, seed):
    """Sends `count` of them; each answer is none, or HTTP with JSON that has a sentence or numbers; by status."""
    chance, seen = random.Random(seed), {}
    for data, _ in zip(requests(served, chance), range(count), strict=False):
        try:
            found = raw(served, data)
        except ConnectionError:
            found = b""
        assert b"Traceback" not in found, data
        if found:
            assert re.match(rb"HTTP/1\.[01] \d{3} ", found), (data, found[:200])
            head, _, rest = found.partition(b"\r\n\r\n")
            length = int(re.search(rb"Content-Length: (\d+)", head)[1])
            if b"application/json" in head:
                json.loads(rest[:length])
        status = found[9:12].decode() or "none"
        assert status != "500", data
        seen[status] = seen.get(status, 0) + 1
    assert asked(served, "POST", "/evaluate", json.dumps(PAIR).encode())[0] == 200
    return seen


def test_noise_does_not_stop_it(running, capfd):
    seen = fuzz(running, 600, seed=0)
    assert capfd.readouterr() == ("", "")
    assert seen["200"] > 50 and seen["400"] > 100 and len(seen) >= 5


@pytest.mark.slow
def test_much_noise_does_not_stop_it(running, capfd):
    seen = fuzz(running, 20_000, seed=1)
    assert capfd.readouterr() == ("", "")
    assert sum(seen.values()) == 20_000 and seen["200"] > 2000 and seen["400"] > 4000
    assert threading.active_count() < server.CONNECTIONS
