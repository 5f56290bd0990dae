"""The interop matrix: `make interop`.

Every row against strongSwan, we as initiator and as responder; the peer with ESP in userspace here and with the
kernel's ESP in a guest (user-mode-linux). Ends with 0 only when nothing failed and nothing was missing on our side.

    make interop [ARGS="WORD ... [--peer userspace|kernel] [--role initiator|responder] [--json FILE] [--list]"]

A WORD picks the rows whose name holds it. LAB_STRONGSWAN=PREFIX takes another strongSwan than Debian's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from interop.matrix.plan import PEERS, ROLES
from interop.matrix.table import render
from interop.matrix.worker import FAILED, NOT_THERE, chosen
from lab.tools import find_tool, why_no_namespaces
from lab.uml import ESP_MODULES, GuestError, run_guest

ROOT = Path(__file__).resolve().parents[3]
GUEST_MODULES = (
    *ESP_MODULES,
    *(
        "ah4",
        "ah6",
        "ipcomp",
        "ipcomp6",
        "xfrm_ipcomp",
        "af_packet",
        "tunnel4",
        "tunnel6",
        "xfrm4_tunnel",
        "xfrm6_tunnel",
    ),
    *("ip_tables", "iptable_nat", "iptable_filter", "ip6_tables", "ip6table_filter", "ip6t_frag"),
    *("xt_MASQUERADE", "xt_nat", "xt_conntrack", "xt_tcpudp", "nf_conntrack_netlink"),
)
SECONDS_IN_ALL = 3600.0


def run(role: str, peer: str, words: list[str], plane: str, out: Path) -> str:
    """One worker from its start to its end; what went wrong with it as a whole, if something did."""
    command = ["setpriv", "--pdeathsig", "TERM"] if peer == "userspace" else []
    command += [sys.executable, "-m", "interop.matrix.worker", str(out), role, peer, f"plane={plane}"]
    command += [f"only={word}" for word in words]
    environment = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    environment.update({k: v for k, v in os.environ.items() if k.startswith("LAB_")})
    if peer == "userspace":
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=SECONDS_IN_ALL,
            check=False,
        )
        status, stderr = done.returncode, done.stderr
    else:
        try:
            guest = run_guest(
                command,
                SECONDS_IN_ALL,
                modules=GUEST_MODULES,
                environment=environment,
                cwd=ROOT,
                memory="768M",
            )
        except GuestError as error:
            return str(error)
        status, stderr = guest.status, guest.stderr
    return "" if status == 0 else f"the worker ended with {status}:\n{stderr[-2000:]}"


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make interop", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="rows whose name holds one of these")
    parser.add_argument("--peer", choices=PEERS, action="append", help="only this kind of peer")
    parser.add_argument("--role", choices=ROLES, action="append", help="only this role of ours")
    parser.add_argument(
        "--plane", choices=("tun", "xfrm"), default="tun", help="our data plane (xfrm: in the guest)"
    )
    parser.add_argument("--json", type=Path, help="also write every outcome to this file")
    parser.add_argument("--logs", type=Path, help="write traces and logs of failures into this folder")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    return parser.parse_args(arguments)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, interrupt)
    asked = parse_arguments(arguments)
    rows = chosen(asked.words)
    if asked.list:
        print("\n".join(row.title for row in rows))
        return 0
    reason = why_no_namespaces()
    peers = list(asked.peer or PEERS)
    if reason is None and "kernel" in peers and find_tool("linux.uml") is None:
        print(
            "interop: linux.uml is not installed (apt-get install user-mode-linux): no kernel peer",
            flush=True,
        )
        peers.remove("kernel")
    if asked.plane == "xfrm":
        peers = ["kernel"]
    if reason is not None or find_tool("charon") is None:
        print(f"interop: {reason or 'charon is not installed (apt-get install strongswan-charon)'}")
        return 2
    started = time.monotonic()
    outcomes: list[dict[str, Any]] = []
    troubles: list[str] = []
    with tempfile.TemporaryDirectory(prefix="interop-matrix-") as place, ThreadPoolExecutor(2) as pool:
        jobs = [(role, peer) for peer in peers for role in (asked.role or ROLES)]
        files = {job: Path(place) / f"{job[0]}-{job[1]}.jsonl" for job in jobs}
        futures = {job: pool.submit(run, *job, asked.words, asked.plane, files[job]) for job in jobs}
        try:
            for job, future in futures.items():
                trouble = future.result()
                if trouble:
                    troubles.append(f"{job[0]}, {job[1]}: {trouble}")
        except KeyboardInterrupt:
            troubles.append("interrupted")
        for file in files.values():
            outcomes += read(file)
        if "interrupted" in troubles:
            print(render(outcomes), "interrupted", sep="\n", flush=True)
            shutil.rmtree(place, ignore_errors=True)
            os._exit(130)  # the workers end with this process
    order = {(row.family, row.name): number for number, row in enumerate(rows)}
    outcomes.sort(key=lambda outcome: order[(outcome["family"], outcome["row"])])
    print(render(outcomes))
    print(f"{len(rows)} scenarios in {time.monotonic() - started:.0f} s")
    for trouble in troubles:
        print(trouble)
    if asked.logs:
        asked.logs.mkdir(parents=True, exist_ok=True)
        for number, outcome in enumerate(outcomes):
            if "trace" in outcome:
                name = f"{number:03}-{outcome['role']}-{outcome['peer']}.log"
                (asked.logs / name).write_text(
                    f"{outcome['family']}: {outcome['row']}\n{outcome['trace']}\n{outcome.get('logs', '')}"
                )
    if asked.json:
        kept = [{k: v for k, v in outcome.items() if k not in ("logs", "trace")} for outcome in outcomes]
        asked.json.write_text(json.dumps(kept, indent=1) + "\n")
    missing = len(rows) * len(jobs) - len(outcomes)
    if missing:
        print(f"{missing} outcomes are missing")
    bad = any(outcome["result"] in (FAILED, NOT_THERE) for outcome in outcomes)
    return 1 if bad or troubles or missing or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
