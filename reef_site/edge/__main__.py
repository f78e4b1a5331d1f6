"""Runs the public port: `python -m reef_site.edge --host H --port P`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys

from reef_site.edge.server import app

logger = logging.getLogger("reef.edge")


def main() -> None:
    """Parse arguments and serve until a signal comes."""
    import uvicorn

    from reef_site import settings
    from reef_site.common.log_lines import LineFormatter
    from reef_site.edge.client_addresses import ConnectionLimits, TrustedProxies
    from reef_site.edge.http_protocol import Protocol, Server
    from reef_site.hardening import harden_process

    parser = argparse.ArgumentParser(
        prog="python -m reef_site.edge", description="The public port of reef."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=settings.PORT)
    options = parser.parse_args()
    harden_process()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=settings.LOG_LEVEL, handlers=[handler])
    Protocol.limits = ConnectionLimits(
        settings.MAX_CONNECTIONS_PER_ADDRESS, settings.MAX_LOOPBACK_CONNECTIONS
    )
    Protocol.proxies = TrustedProxies(settings.TRUSTED_PROXIES)
    logger.info("listening on http://%s:%d", options.host, options.port)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        loop="uvloop",
        http=Protocol,
        ws="none",
        access_log=False,
        # uvicorn's messages go through our own handler.
        log_config=None,
        log_level="warning",
        server_header=False,
        # uvicorn would trust X-Forwarded-For of every program on this machine.
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=6000,
    )
    server = Server(config, app.end_streams)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
