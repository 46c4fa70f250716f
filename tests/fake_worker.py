"""A worker that trains nothing, and ends as its job says: what tests of the launcher start in place of a real one."""

import json
import os
import pathlib
import signal
import sys


def main() -> None:
    for line in sys.stdin:
        print(json.dumps([end(job) for job in json.loads(line)]), flush=True)


def end(job: dict) -> dict:
    workdir = pathlib.Path(job["workdir"])
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "log.txt").open("a") as log:
        log.write(f"attempt by {os.getpid()}\n")
    with (workdir / "cores.json").open("w") as file:
        json.dump([sys.argv[1], os.getppid()], file)
    reply = {"status": "done", "seconds": 0.5, "message": "", "again": True}
    match job["values"]["how"]:
        case "failed":
            reply |= {"status": "failed", "message": "it failed"}
        case "failed for good":
            reply |= {"status": "failed", "message": "it is not finite", "again": False}
        case "exit":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "killed once" if not (workdir / "again").exists():
            (workdir / "again").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "until told":
            (workdir / "waiting").touch()
            assert not sys.stdin.readline(), "another job while one runs"
            (workdir / "saved").touch()
            reply |= {"status": "preempted"}
    return reply


main()
