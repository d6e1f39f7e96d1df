"""Which sandbox a runner uses: the one that was asked for, or the strongest that works here, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rgrid_server.runner.sandbox import bubblewrap, containers
from rgrid_server.runner.sandbox.base import Sandbox
from rgrid_server.runner.sandbox.bubblewrap import BubblewrapSandbox
from rgrid_server.runner.sandbox.containers import DockerSandbox
from rgrid_server.runner.sandbox.process import ProcessSandbox

NAMES = ("auto", "bubblewrap", "docker", "process")


class Unavailable(Exception):
    """The sandbox that was asked for does not work here."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A sandbox, and why it is this one, in words for whoever runs the machine."""

    sandbox: Sandbox
    reason: str


def choose(name: str, boxes: Path, *, network: bool) -> Choice:
    """Make a sandbox.

    Args:
        name: one of NAMES.
        boxes: a directory of its own.
        network: whether scripts may reach the machine's network.

    Raises:
        Unavailable: it does not work here.
    """
    if name == "process":
        return Choice(ProcessSandbox(boxes), "it was asked for; scripts run as the runner's user, unconfined")
    problem = None if name == "docker" else bubblewrap.why_not()
    if name != "docker" and problem is None:
        made = BubblewrapSandbox(boxes, network=network)
        asked = "it was asked for" if name == "bubblewrap" else "it is the strongest that works here"
        return Choice(made, "; ".join(part for part in (asked, made.groups.said) if part))
    if name == "bubblewrap":
        raise Unavailable(f"{problem}; install it or allow user namespaces, or choose --sandbox process")
    no_docker = containers.why_not()
    if no_docker is None:
        return Choice(DockerSandbox(boxes, network=network), problem or "it was asked for")
    if name == "docker":
        raise Unavailable(f"{no_docker}; start one, or choose another sandbox")
    problem = f"{problem}; {no_docker}"
    if not network:
        raise Unavailable(f"{problem}, and no other sandbox can keep scripts from the network")
    return Choice(ProcessSandbox(boxes), f"{problem}; scripts run as the runner's user, unconfined")
