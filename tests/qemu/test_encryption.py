"""What a source's QEMU encrypts with; OpenSSL, which takes what a client likes best, stands in for the destination."""

import asyncio
from pathlib import Path

import pytest

from limosa.migration import credentials
from limosa.testing.ports import free_port

from .conftest import Started

pytestmark = pytest.mark.qemu

KEY = "c0ffee" * 8


async def test_a_move_is_encrypted_with_the_cipher_that_processors_have_instructions_for(
    qemu: Started, tmp_path: Path
) -> None:
    port = free_port()
    words = ["-psk", KEY, "-psk_identity", credentials.USER, "-nocert", "-accept", f"127.0.0.1:{port}", "-naccept", "1"]
    server = await asyncio.create_subprocess_exec(
        "openssl", "s_server", *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    monitor = await qemu.monitor()
    try:
        await said(server.stdout, "ACCEPT")
        creds = credentials.client(credentials.CREDS, credentials.write_key(tmp_path, KEY))
        await monitor.execute("object-add", creds)
        await monitor.execute("migrate-set-parameters", {"tls-creds": credentials.CREDS})
        await monitor.execute("migrate", {"uri": f"tcp:127.0.0.1:{port}"})
        assert await said(server.stdout, "CIPHER is") == "CIPHER is TLS_AES_128_GCM_SHA256"
    finally:
        await monitor.close()
        server.kill()
        await server.communicate()


async def said(output: asyncio.StreamReader, words: str) -> str:
    """The next line that begins so."""
    async with asyncio.timeout(20):
        while line := (await output.readline()).decode(errors="replace"):
            if line.startswith(words):
                return line.strip()
    pytest.fail(f"OpenSSL did not say {words}")
