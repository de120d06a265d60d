"""The role ``link`` done by httpx, in its default settings but for HTTP/2 with prior knowledge on one connection."""

from __future__ import annotations

import httpx

from tests.benchmarks import jobs
from tests.benchmarks.jobs import Options


async def _link(port: int, requests: int, options: Options) -> dict[str, float]:
    one = httpx.Limits(max_connections=1)
    url = f"{options.scheme}://127.0.0.1:{port}{jobs.HELLO_PATH}"
    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False, limits=one, timeout=60) as client:

        async def get() -> tuple[int, bytes]:
            reply = await client.get(url)
            return reply.status_code, reply.content

        return await jobs.cost_requests(get, requests)


if __name__ == "__main__":
    jobs.main(servers={}, clients={"link": _link})
