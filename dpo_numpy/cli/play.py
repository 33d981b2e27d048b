"""`dpo-numpy play`: the page to play with, on this machine's own address."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_parser", "run"]

PORT = 8337


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "play",
        help="DPO as a page to play with, in the browser: derivation, one pair, its curves, a training run",
        description="Serves a page on 127.0.0.1 and opens it in the browser. Every number on it is computed here, by "
        "this package, while you move a slider. Ctrl-C ends it.",
    )
    parser.add_argument("--port", type=int, default=PORT, metavar="N",
                        help=f"where to listen; the next free one is taken where it is in use, 0 lets the system "
                        f"choose (default: {PORT})")
    parser.add_argument("--no_browser", "--no-browser", action="store_true", help="say the address, open nothing")
    parser.add_argument("--pyodide", metavar="URL",
                        help="let the page run its Python in the browser, by the Pyodide in that folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    from ..playground.server import listen

    with listen(args.port, args.pyodide) as server:
        if args.port not in (0, server.port):
            print(f"port {args.port} cannot be had: listening at {server.port}")
        url = server.url + (f"?pyodide={quote(args.pyodide, ':/@')}" if args.pyodide else "")
        opened = not args.no_browser and _opened(url)
        print(f"{url} is open in your browser" if opened else f"open {url} in a browser", "(Ctrl-C ends)", flush=True)
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            print()
    return 0


def _opened(url: str) -> bool:
    """Whether a browser took it; one that would run in this terminal is not asked."""
    import os
    import sys
    import webbrowser

    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys():
        return False
    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
