"""Run the emulator until it is stopped: `python -m reef_site.demo.platform --state <folder>`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from reef_site.demo.platform.hosting_base import HostingError
from reef_site.demo.platform.relay import Relay
from reef_site.demo.platform.server import AlreadyRunning, Emulation, Options

# Exit code if another emulator uses the folder.
EXIT_FOLDER_IN_USE = 75
RELAY = "PORT=HERE: for VMs, this port leads to HERE, one of the loopback or a file that holds one"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m reef_site.demo.platform", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder for everything it keeps")
    parser.add_argument("--port", type=int, default=0, help="port of the API (any free one)")
    parser.add_argument("--gateway-port", type=int, default=0, help="port of the VMs' gateway")
    parser.add_argument("--domain", default="vm.emulated.test", help="VMs are <id>.<domain>")
    parser.add_argument("--mode", choices=("auto", "namespaces", "plain"), default="auto")
    parser.add_argument("--port-file", type=Path, help="where to write addresses and key as JSON")
    parser.add_argument("--check", action="store_true", help="check answers by openapi.yaml")
    parser.add_argument("--end-with-parent", action="store_true", help="end when the starter does")
    parser.add_argument("--temporary", action="store_true", help="remove the folder at the end")
    parser.add_argument("--address", default="", help="fail unless VMs find this machine there")
    parser.add_argument("--relay", action="append", default=[], type=Relay.parse, help=RELAY)
    parser.add_argument("--prepare", action="store_true", help="only tell where it would run")
    options = parser.parse_args()
    emulation_options = Options(
        options.state.absolute(),
        options.port,
        options.gateway_port,
        options.domain,
        options.mode,
        options.port_file,
        options.check,
        options.end_with_parent,
        options.temporary,
        options.address,
        tuple(options.relay),
    )
    try:
        emulation = Emulation(emulation_options)
        if options.prepare:
            print(json.dumps(asyncio.run(emulation.prepare())))
        else:
            asyncio.run(emulation.run())
    except AlreadyRunning as error:
        print(f"emulator: {error}", file=sys.stderr)
        sys.exit(EXIT_FOLDER_IN_USE)
    except HostingError as error:
        sys.exit(f"emulator: {error}")


if __name__ == "__main__":
    main()
