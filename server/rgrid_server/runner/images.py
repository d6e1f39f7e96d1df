"""Images that scripts run in: fetched when they are asked for, looked at once, used by whoever may have them.

A name is looked up at its registry again after an hour, so that a tag which was moved is followed; what was
found is used by its id. An image that its registry gave for credentials is for the tenants that have shown
some, although the daemon would run it for anyone (docs/how-to/images.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgrid_server.domain.registries import RegistryLogin
from rgrid_server.runner.buildlog import BuildLogs, Say, unheard
from rgrid_server.runner.environments import Environment
from rgrid_server.runner.interpreters import OLDEST
from rgrid_server.runner.once import Once
from rgrid_server.runner.sandbox.containers import DockerSandbox, confined
from rgrid_server.runner.uv import EnvironmentFault, Rejected

if TYPE_CHECKING:
    from docker.models.images import Image

log = logging.getLogger(__name__)

LOOKUP_LIFETIME_SECONDS = 3600.0
MAX_MESSAGE_CHARS = 1000
_PYTHONS = ("python3", "python")
_LOOK = """
import json, pkgutil, sys
packages = sorted({module.name for module in pkgutil.iter_modules()})
print(json.dumps({"python": sys.executable, "version": list(sys.version_info[:3]), "packages": packages}))
"""
_REFUSED = (
    *("not found", "manifest unknown", "denied", "unauthorized", "no basic auth", "authentication required"),
    *("invalid reference", "invalid repository", "no matching manifest", "not supported"),
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an image has that a script needs."""

    python: str
    version: str
    packages: frozenset[str]


class Images:
    """The images of one daemon.

    Args:
        directory: where it is kept who may use which.
    """

    def __init__(self, sandbox: DockerSandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self._client = sandbox.client
        self._holders = _Holders(directory / "images.json")
        self._lookups: dict[tuple[str, str, str], tuple[str, float]] = {}
        self._seen: dict[str, _Seen] = {}
        self._once = Once()
        self._logs = BuildLogs()

    @property
    def version(self) -> str:
        """The daemon's."""
        return str(self._client.version().get("Version", ""))

    @asynccontextmanager
    async def use(
        self, name: str, tenant: str, login: RegistryLogin | None, say: Say = unheard
    ) -> AsyncIterator[Environment]:
        """An image, as the environment that it is.

        Args:
            say: is told what is fetched, where it is fetched just now, also for others.

        Raises:
            Rejected: it is not to be had, not for this tenant, or has no Python.
            EnvironmentFault: the daemon or the registry does not answer.
        """
        asked = (name, tenant, login.fingerprint if login is not None else "")
        loop = asyncio.get_running_loop()
        with self._logs.heard(f"find {asked}", say) as said:

            def tell(line: str) -> None:
                loop.call_soon_threadsafe(said.say, line)

            image, was_fetched = await self._once.do(
                f"find {asked}", lambda: asyncio.to_thread(self._find, asked, login, tell)
            )
        seen = await self._once.do(f"look {image.id}", lambda: asyncio.to_thread(self._look, name, image))
        variables = dict(item.partition("=")[::2] for item in image.attrs["Config"].get("Env") or ())
        yield Environment(
            key=str(image.id),
            python=Path(seen.python),
            version=seen.version,
            installation=(),
            packages=seen.packages,
            was_built=was_fetched,
            image=str(image.id),
            variables=variables,
        )

    async def close(self) -> None:
        """End what is being fetched."""
        await self._once.close()

    def _find(
        self, asked: tuple[str, str, str], login: RegistryLogin | None, tell: Say
    ) -> tuple[Image, bool]:
        """The image of a name, from the registry where that was not asked lately."""
        name, tenant, _ = asked
        known = self._lookups.get(asked)
        if known is not None and time.monotonic() - known[1] < LOOKUP_LIFETIME_SECONDS:
            image = self._present(known[0])
            if image is not None:
                return image, False
        present = self._present(name)
        try:
            image = self._fetch(name, login, tell)
            self._holders.fetched(str(image.id), None if login is None else tenant)
        except (Rejected, EnvironmentFault) as failure:
            is_refusal = isinstance(failure, Rejected)
            if present is None or not self._holders.may_use(str(present.id), tenant, was_refused=is_refusal):
                raise
            if not is_refusal:
                log.warning("the image %s is used as it is here: %s", name, failure)
            image = present
        self._lookups[asked] = (str(image.id), time.monotonic())
        return image, present is None or present.id != image.id

    def _present(self, name: str) -> Image | None:
        import docker

        try:
            return self._client.images.get(name)
        except docker.errors.ImageNotFound:
            return None
        except docker.errors.DockerException as error:
            raise EnvironmentFault(f"the Docker daemon: {error}") from error

    def _fetch(self, name: str, login: RegistryLogin | None, tell: Say) -> Image:
        import docker
        import requests
        from docker.utils import parse_repository_tag

        credentials = None if login is None else {"username": login.username, "password": login.password}
        repository, tag = parse_repository_tag(name)
        tag = tag or "latest"
        try:
            steps = self._client.api.pull(
                repository, tag=tag, auth_config=credentials, stream=True, decode=True
            )
            for line in _told(name, steps):
                tell(line)
            return self._client.images.get(f"{repository}{'@' if ':' in tag else ':'}{tag}")
        except (
            docker.errors.DockerException,
            docker.errors.StreamParseError,
            requests.RequestException,
        ) as error:
            said = str(getattr(error, "explanation", None) or error)[:MAX_MESSAGE_CHARS]
            if any(word in said.lower() for word in _REFUSED):
                hint = "" if login is not None else "; a private one wants the secret RGRID_REGISTRY_AUTH"
                raise Rejected("image_unavailable", f"the image {name} cannot be had: {said}{hint}") from None
            raise EnvironmentFault(f"the image {name} could not be fetched: {said}") from None

    def _look(self, name: str, image: Image) -> _Seen:
        """What Python an image has; looked at once."""
        seen = self._seen.get(str(image.id))
        if seen is None:
            seen = self._seen[str(image.id)] = self._ask_python(name, str(image.id))
        return seen

    def _ask_python(self, name: str, image_id: str) -> _Seen:
        import docker

        problem = ""
        for python in _PYTHONS:
            try:
                told = self._client.containers.run(
                    image_id,
                    ["-c", _LOOK],
                    entrypoint=[python],
                    remove=True,
                    **confined(self._client, [], network=False, of_machine=False, keeps_output=True),
                )
            except docker.errors.ContainerError as error:
                problem = str(error)
                continue
            except docker.errors.APIError as error:
                if error.is_server_error():
                    raise EnvironmentFault(f"the image {name} does not start: {error.explanation}") from None
                problem = str(error.explanation)
                continue
            found: dict[str, Any] = json.loads(told)
            version = ".".join(map(str, found["version"]))
            if tuple(found["version"][:2]) < OLDEST:
                raise Rejected(
                    "runtime_unavailable",
                    f"the image {name} has Python {version}; {'.'.join(map(str, OLDEST))} is the oldest",
                )
            return _Seen(found["python"], version, frozenset(found["packages"]))
        raise Rejected(
            "runtime_unavailable",
            f"the image {name} has no Python that starts: {problem.strip()[-MAX_MESSAGE_CHARS:]}",
        )


def _told(name: str, steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a log for what a daemon says while it fetches an image: none where it has all of it.

    Raises:
        docker.errors.APIError: it could not.
    """
    import docker

    begun_at = None
    for step in steps:
        if "error" in step:
            raise docker.errors.APIError(str(step["error"]), explanation=str(step["error"]))
        status = step.get("status")
        if status == "Pulling fs layer" and begun_at is None:
            begun_at = time.monotonic()
            yield f"fetching the image {name}"
        elif status == "Pull complete":
            yield f"layer {step.get('id')} is here"
    if begun_at is not None:
        yield f"the image is here after {time.monotonic() - begun_at:.1f} s"


class _Holders:
    """Which tenants have shown credentials for an image that wants them; kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._tenants: dict[str, list[str]] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._tenants = {}

    def fetched(self, image_id: str, tenant: str | None) -> None:
        """A registry gave an image: to a tenant's credentials, or to anyone."""
        before = self._tenants.get(image_id)
        if tenant is None:
            self._tenants.pop(image_id, None)
        else:
            self._tenants[image_id] = sorted({*(before or ()), tenant})
        if self._tenants.get(image_id) != before:
            temporary = self._path.with_name(f"{self._path.name}.new")
            temporary.write_text(json.dumps(self._tenants))
            temporary.replace(self._path)

    def may_use(self, image_id: str, tenant: str, *, was_refused: bool) -> bool:
        """Whether a tenant may use what is here, although its registry did not give it just now."""
        tenants = self._tenants.get(image_id)
        return tenants is None or (tenant in tenants and not was_refused)
