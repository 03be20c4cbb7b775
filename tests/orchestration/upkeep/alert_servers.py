"""A web server and a mail server on localhost that remember what they were sent."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Inbox:
    """What arrived, and what is to be answered."""

    port: int = 0
    messages: list[Any] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Codes of the next answers; 200 (250 by mail) when there is none left."""


@contextmanager
def web_server() -> Iterator[Inbox]:
    """Takes JSON by POST."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = inbox.answers.pop(0) if inbox.answers else 200
            if code < 300:
                inbox.messages.append(json.loads(body))
            self.send_response(code)
            if 300 <= code < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    yield from _served(ThreadingHTTPServer(("127.0.0.1", 0), Handler), inbox)


@contextmanager
def mail_server() -> Iterator[Inbox]:
    """Speaks as much SMTP as a message needs; no encryption."""
    inbox = Inbox()

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(line.encode() + b"\r\n")

        def handle(self) -> None:
            self.say("220 test")
            while line := self.rfile.readline().decode().strip():
                word = line.split(" ")[0].upper()
                if word == "EHLO":
                    self.say("250-test")
                    self.say("250-8BITMIME")
                    self.say("250 AUTH PLAIN")
                elif word == "AUTH":
                    inbox.logins.append(base64.b64decode(line.split(" ")[2]).decode())
                    self.say("235 in")
                elif word == "RCPT" and inbox.answers:
                    self.say(f"{inbox.answers.pop(0)} no")
                elif word == "DATA":
                    self.say("354 go on")
                    lines = []
                    while (got := self.rfile.readline()) != b".\r\n":
                        lines.append(got)
                    inbox.messages.append(message_from_bytes(b"".join(lines), policy=policy.default))
                    self.say("250 taken")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 ok")

    yield from _served(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler), inbox)


def _served(server: Any, inbox: Inbox) -> Iterator[Inbox]:
    server.daemon_threads = True
    inbox.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield inbox
    finally:
        server.shutdown()
        server.server_close()


def body_of(message: EmailMessage) -> str:
    """The text of a message."""
    return message.get_content().replace("\r\n", "\n")
