"""A server that tells each client the name in its certificate, and a link that shows one.

Run it with ``python -m examples.whoami CA SERVER SERVER_KEY CLIENT CLIENT_KEY``, the paths of PEM files.
"""

import asyncio
import sys

from actors.server_stream import ServerStream
from actors.settings import Tls
from supervisor.link import Link
from supervisor.server import Server


async def whoami(stream: ServerStream) -> None:
    certificate = stream.peer.certificate or {}
    await stream.respond(200, body=str(certificate["subject"]).encode())


async def main(ca: str, server: str, server_key: str, client: str, client_key: str) -> None:
    serving = Tls(certfile=server, keyfile=server_key, client_ca=ca)  # client_ca: clients must show a certificate, too
    async with Server(whoami, "127.0.0.1", 0, tls=serving) as service:
        calling = Tls(cacert=ca, certfile=client, keyfile=client_key)  # without cacert: the system's authorities
        async with Link(f"https://127.0.0.1:{service.port}", tls=calling) as link:
            reply = await link.request("GET", "/")
            print(reply.status, reply.body.decode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
