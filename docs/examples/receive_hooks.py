#!/usr/bin/env python3
"""Receives limosa's webhooks, verifies them, and prints one line of JSON for each new event.

    receive_hooks.py PORT SECRET_FILE

A starting point for a receiver of your own: what must be verified, what must be dropped, what must be answered.
"""

import base64
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOLERANCE = 300
"""Seconds that a message may be old: whoever recorded one cannot send it again tomorrow."""


def verified(headers, body, key):
    """The event in a message; ValueError where it is not limosa's, or too old."""
    event_id, timestamp = headers["webhook-id"] or "", headers["webhook-timestamp"] or ""
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        raise ValueError("it is too old, or a clock is wrong")
    digest = hmac.digest(key, f"{event_id}.{timestamp}.".encode() + body, "sha256")
    wanted = "v1," + base64.b64encode(digest).decode()
    given = (headers["webhook-signature"] or "").split()  # several while the key is being changed
    if not any(hmac.compare_digest(wanted, each) for each in given):
        raise ValueError("the signature is wrong")
    return json.loads(body)


class Handler(BaseHTTPRequestHandler):
    """One message."""

    key = b""
    seen: set[str] = set()  # noqa: RUF012  (of the class: a real receiver keeps it in its database)
    epochs: dict[str, int] = {}  # noqa: RUF012  (the same)

    def do_POST(self):
        """Verify, drop what is known or outdated, and answer 204: anything else makes limosa try again."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            event = verified(self.headers, body, self.key)
        except ValueError as error:
            self.send_error(401, str(error))
            return
        if event["id"] not in self.seen:
            self.act(event)
            self.seen.add(event["id"])
        self.send_response(204)
        self.end_headers()

    def act(self, event):
        """Here your DNS, IPAM or billing learns that `data.guest` lives on `data.host`."""
        data = event["data"]
        guest = data.get("uuid") or data.get("guest")
        if guest and data["epoch"] < self.epochs.get(guest, 0):
            return  # a later event of another host came first
        if guest:
            self.epochs[guest] = data["epoch"]
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    def log_message(self, *_words):
        """Standard output is for events."""


def main():
    """Serve until interrupted."""
    port, secret = int(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="ascii").split()[0]
    Handler.key = base64.b64decode(secret.removeprefix("whsec_"))
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
