"""``python -m tests.environments_worker DIR REQUIREMENTS ASKS``: what one of several runners does.

It says ``ready``, begins on a line from its standard input, and ends with a JSON document of the uv commands
that it ran and the keys that it was given. With ``--hang`` its first installation never ends; it says
``installing`` then.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from rgrid_server.domain.attempts import Specification
from rgrid_server.runner import environments as module
from rgrid_server.runner.environments import Environments
from rgrid_server.runner.filelock import FileLock
from rgrid_server.runner.interpreters import Interpreter

RUNTIME = f"python:{sys.version_info[0]}.{sys.version_info[1]}"
OWN = Interpreter(".".join(str(part) for part in sys.version_info[:3]), sys._base_executable)


async def work(directory: Path, requirements: str, asks: int, *, hangs: bool) -> None:
    """Ask so often at once for one environment."""
    commands: list[str] = []
    real = module.run_uv

    async def noted(*arguments: str, directory: Path, lock: FileLock, **more: Any) -> str:
        commands.append(" ".join(arguments[: 2 if arguments[0] == "pip" else 1]))
        if hangs and commands[-1] == "pip install":
            (directory / "half").write_text("of a package")
            print("installing", flush=True)
            await asyncio.Event().wait()
        return await real(*arguments, directory=directory, lock=lock, **more)

    module.run_uv = noted
    environments = Environments(directory, {RUNTIME: OWN})
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def ask() -> str:
        async with environments.use(Specification("pass", "script.py", RUNTIME, requirements)) as found:
            return str(found.directory)

    given = await asyncio.gather(*(ask() for _ in range(asks)))
    print(json.dumps({"commands": commands, "given": sorted(set(given))}), flush=True)


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), hangs="--hang" in sys.argv[4:]))
