"""python -m integrations.sandbox: the stand-ins alone, on loopback."""

from __future__ import annotations

import argparse

from integrations.sandbox.app import make_app


def main() -> None:
    parser = argparse.ArgumentParser(prog="integrations.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=4300)
    parser.add_argument("--records", type=int, default=2000, help="about how many records each account holds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0, metavar="MS", help="of each API call")
    options = parser.parse_args()

    from daphne.server import Server

    app = make_app(options.seed, options.records, latency_ms=options.latency)
    print(f"http://127.0.0.1:{options.port}/sandbox", flush=True)
    Server(application=app, endpoints=[f"tcp:port={options.port}:interface=127.0.0.1"], signal_handlers=True).run()


if __name__ == "__main__":
    main()
