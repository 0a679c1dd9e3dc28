"""Tells a URL of an event."""

import asyncio
import ssl
import time
from http import HTTPStatus
from pathlib import Path

import aiohttp

from limosa.agent.hooks import signing
from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.progress import Answer

HEARD = 4096
"""Bytes that are read of an answer."""
QUOTED = 200
"""Characters of it that are kept."""


async def post(hook: HookConfig, event_id: str, body: bytes) -> Answer:
    """One attempt: 2xx is delivered, 410 is refused for good, everything else is tried again.

    A redirection is not followed: it could lead a signed event anywhere.
    """
    try:
        secrets = await asyncio.to_thread(_secrets, hook.secret_file)
        tls = await asyncio.to_thread(ssl.create_default_context, cafile=hook.ca or None)
    except (OSError, ValueError) as error:
        return Answer(delivered=False, words=f"nothing was sent: {hook.secret_file or hook.ca}: {error}")
    told = signing.headers(event_id, int(time.time()), body, secrets)
    timeout = aiohttp.ClientTimeout(total=hook.timeout)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), timeout=timeout) as session,
            session.post(
                hook.url,
                data=body,
                headers={**told, "Content-Type": "application/json", "User-Agent": "limosa"},
                allow_redirects=False,
            ) as answer,
        ):
            text = (await answer.content.read(HEARD)).decode(errors="replace")
            return judge(answer.status, text, answer.headers.get("Retry-After", ""))
    except TimeoutError:
        return Answer(delivered=False, words=f"no answer within {hook.timeout:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(delivered=False, words=f"{type(error).__name__}: {error}")


def judge(status: int, text: str, retry_after: str) -> Answer:
    """What an HTTP answer means. Pure.

    Args:
        status: as the receiver gave it.
        text: the beginning of its body.
        retry_after: its header; only seconds are understood, a date counts as nothing.
    """
    said = " ".join(text.split())[:QUOTED]
    return Answer(
        delivered=200 <= status < 300,
        words=f"HTTP {status}{f': {said}' if said else ''}",
        final=status == HTTPStatus.GONE,
        not_before=float(retry_after) if retry_after.isdecimal() else 0.0,
    )


def _secrets(file: str) -> tuple[bytes, ...]:
    return signing.keys(Path(file).read_text(encoding="utf-8"))
