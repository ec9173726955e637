"""The click page without Jupyter: a server of the standard library on this machine only.

It answers to the token in its address, under its own name, and serves the page, its script and what the session shows:
no path that a browser sends is ever opened.
"""

import json
import secrets
import threading
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from dealkit.widget.session import Session

SCRIPT = Path(__file__).parent / "click.js"
HOST = "127.0.0.1"
LONGEST_EVENT = 64 * 1024
"""Most bytes of an event."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>dealkit: click</title><link rel="icon" href="data:,"></head>
<body style="margin: 8px 14px"><main data-dealkit-page></main>
<script type="module" src="click.js?token={token}"></script></body></html>
"""
POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; img-src 'self' blob: data:"


def make_server(session: Session, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """A server that shows the session, ready for `serve_forever`, and its address with the token; port 0: any that is free.

    Raises:
        ValueError: the port is taken or not allowed; names it.
    """
    token, lock = secrets.token_urlsafe(24), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer is head and body: the body would wait for the browser's receipt
        timeout = 600

        def do_GET(self) -> None:
            if (name := self._asked_for()) is None:
                return
            asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            try:
                with lock:
                    if name == "":
                        self._answer(PAGE.format(token=token).encode(), "text/html; charset=utf-8")
                    elif name == "click.js":
                        self._answer(SCRIPT.read_bytes(), "text/javascript; charset=utf-8")
                    elif name == "view":
                        self._answer(json.dumps(session.view()).encode(), "application/json")
                    elif name == "picture":
                        box = [float(side) for side in asked["box"].split(",")] if "box" in asked else None
                        self._answer(session.picture(box), "image/jpeg")
                    elif name == "export":
                        file, content = session.export(asked.get("what", ""))
                        self._answer(content, "application/octet-stream", file)
                    else:
                        self._refuse(HTTPStatus.NOT_FOUND, "no such page")
            except ValueError as error:
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))

        def do_POST(self) -> None:
            if (name := self._asked_for()) is None:
                return
            length = self.headers.get("Content-Length", "")
            if name != "event" or not length.isdecimal() or int(length) > LONGEST_EVENT:
                self.close_connection = True  # its body was not read
                return self._refuse(HTTPStatus.BAD_REQUEST, f"expected an event of at most {LONGEST_EVENT} bytes")
            try:
                event = json.loads(self.rfile.read(int(length)))
            except ValueError:
                return self._refuse(HTTPStatus.BAD_REQUEST, "event: expected JSON")
            with lock:
                self._answer(json.dumps(session.apply(event)).encode(), "application/json")

        def _asked_for(self) -> str | None:
            """Name of the page that is asked for; None if the request was refused: not our host name, or not our token."""
            parts = urlsplit(self.path)
            given = parse_qs(parts.query).get("token", [""])[0]
            name = self.headers.get("Host", "").rpartition(":")[0]  # any port: it may be forwarded
            if name in (HOST, "localhost") and secrets.compare_digest(given.encode(), token.encode()):
                return parts.path.removeprefix("/")
            self.close_connection = True
            self._refuse(HTTPStatus.FORBIDDEN, "expected the address that the program printed, with its token")
            return None

        def _refuse(self, status: HTTPStatus, message: str) -> None:
            self._answer(message.encode(), "text/plain; charset=utf-8", status=status)

        def _answer(self, body: bytes, kind: str, file: str = "", status: HTTPStatus = HTTPStatus.OK) -> None:
            self.send_response(status)
            head = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
            head |= {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
            if file:
                head["Content-Disposition"] = f'attachment; filename="{file}"'
            for name, value in head.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: a line for every click helps nobody, and it would hold the token."""

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise ValueError(f"--port: expected one that is free, or 0, got {port}: {error}") from None
    server.daemon_threads = True
    return server, f"http://{HOST}:{server.server_port}/?token={token}"


def serve_page(session: Session, port: int = 0, *, browser: bool = True) -> None:
    """Print the address of the page, open it in the browser if asked to, and serve it until Ctrl-C; then the session is kept."""
    server, address = make_server(session, port)
    print(f"{address}\nOnly this machine can open it; Ctrl-C ends", flush=True)
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
        session.keep()
