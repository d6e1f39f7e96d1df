"""``rgrid server``: start it, and look after it."""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rgrid_server.billing.pricebook import add_prices
from rgrid_server.clock import now_ms
from rgrid_server.config import Settings
from rgrid_server.domain.apikeys import parse_scopes
from rgrid_server.domain.pricebook import PricesInvalid, read_prices, shown_time
from rgrid_server.domain.runtimes import PresetInvalid
from rgrid_server.domain.sealing import Unreadable
from rgrid_server.errors import ServiceError
from rgrid_server.observability.logs import configure_logging
from rgrid_server.observability.tracing import TracingUnavailable
from rgrid_server.presets import load_presets
from rgrid_server.running import CannotStart, NotRunning, is_running, status_of, stop
from rgrid_server.storage import (
    UnknownStorage,
    check_storage,
    has_data,
    make_data_directory,
    migrate,
    name_of,
    open_database,
)
from rgrid_server.store import spend
from rgrid_server.store.database import Database, StorageError
from rgrid_server.tenancy import Tenancy, why_not_a_key
from rgrid_server.tomlfile import FileInvalid, read_file

T = TypeVar("T")

USAGE_ERROR = 2
UNAVAILABLE = 69


class Refusal(Exception):
    """A command cannot do what it was asked; the message says why and the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of ``rgrid server``; returns its exit code."""
    arguments = _parser().parse_args(argv)
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name in Settings.model_fields and value is not None
    }
    try:
        settings = Settings(**given)
        _check(settings)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            print(f"rgrid server: {name}: {problem['msg']}", file=sys.stderr)
        return USAGE_ERROR
    except Refusal as error:
        print(f"rgrid server: {error}", file=sys.stderr)
        return USAGE_ERROR
    configure_logging(settings.log_format, settings.log_level)
    command: Callable[[Settings, argparse.Namespace], int] = arguments.command
    try:
        return command(settings, arguments)
    except (CannotStart, NotRunning, StorageError, ServiceError, TracingUnavailable, Refusal) as error:
        print(f"rgrid server: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        print(
            f"rgrid server: there is no room on the disk of {settings.data_dir}; make some, and try again",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rgrid server", description="Start RGrid's server, and look after it."
    )
    parser.set_defaults(command=_serve)
    _add_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="")
    for name, run, text in (
        ("status", _status, "say whether a server runs on the data directory"),
        ("stop", _stop, "stop it, letting running work go on"),
        ("migrate", _migrate, "bring the data to this version's schema"),
        ("backup", _backup, "copy the data of a server, running or not"),
        ("restore", _restore, "bring a backup's data into an empty place"),
        ("prices", _prices, "show the price book, or add prices to it"),
        ("keys", _keys, "list keys, make one, revoke one"),
        ("tenants", _tenants, "list tenants, limit what one runs at once"),
        ("secrets", _secrets, "print a key that seals secrets, or seal all with a new one"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.set_defaults(command=run)
        command.add_argument("--data-dir", type=Path, default=argparse.SUPPRESS)
        command.add_argument("--database-url", metavar="URL", default=argparse.SUPPRESS)
        if name == "backup":
            command.add_argument("target", type=Path, help="a directory or FILE.tar that does not exist yet")
        if name == "restore":
            command.add_argument("source", type=Path, help="what backup has made")
        if name in {"backup", "restore"}:
            command.add_argument("--blob-url", metavar="URL", default=argparse.SUPPRESS)
            command.add_argument("--verify", action="store_true", help="compare every blob with its hash")
        if name == "keys":
            _add_key_options(command)
        if name == "tenants":
            _add_tenant_options(command)
        if name == "prices":
            command.add_argument("action", nargs="?", choices=["list", "load"], default="list")
            command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="TOML, for load")
        if name == "secrets":
            command.add_argument("action", choices=["new-key", "rotate"])
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, help="0 for a free one, which is written to DIR/address")
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    parser.add_argument("--database-url", metavar="URL")
    parser.add_argument("--database-connections", type=int, metavar="N")
    parser.add_argument("--blob-url", metavar="URL")
    parser.add_argument("--engine", choices=["local", "ray"])
    parser.add_argument("--slots", type=int, metavar="N", help="executions at once")
    parser.add_argument("--sandbox", choices=["auto", "process", "bubblewrap", "docker"])
    parser.add_argument(
        "--allow-process-sandbox",
        action="store_const",
        const=True,
        help="serve several tenants also where the sandbox does not keep them apart",
    )
    parser.add_argument("--network", choices=["host", "none"], help="what scripts may reach")
    parser.add_argument("--log-retention-days", type=float, metavar="D", help="of logs, 7 by default")
    parser.add_argument(
        "--output-retention-days", type=float, metavar="D", help="of inputs and outputs, 30 by default"
    )
    parser.add_argument("--idle-exit-seconds", type=float, metavar="S")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--log-format", choices=["text", "json"])
    parser.add_argument("--access-log", action="store_true", default=None, help="log every request")
    parser.add_argument("--metrics-port", type=int, metavar="N", help="answer /metrics there without a key")
    parser.add_argument("--metrics-host", metavar="HOST")
    parser.add_argument("--tracing", action="store_true", default=None, help="send OpenTelemetry traces")


def _add_key_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", nargs="?", choices=["list", "add", "revoke", "rotate"], default="list")
    command.add_argument("key_id", nargs="?", help="for revoke and rotate")
    command.add_argument("--tenant", help="a tenant's name; made where there is none (add)")
    command.add_argument("--scopes", default="submit,read", help="submit, read, admin, runner")
    command.add_argument("--name", default="", help="what the key is for")


def _add_tenant_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", nargs="?", choices=["list", "limit"], default="list")
    command.add_argument("tenant", nargs="?", metavar="NAME", help="for limit")
    command.add_argument(
        "--max-running",
        type=_count_or_none,
        default=argparse.SUPPRESS,
        metavar="N",
        help="so many of its executions at once; 0 for nothing for now, none for no limit",
    )


def _count_or_none(text: str) -> int | None:
    if text == "none":
        return None
    count = int(text)
    if count < 0:
        raise ValueError(text)
    return count


def _check(settings: Settings) -> None:
    if settings.bootstrap_api_key is not None:
        why = why_not_a_key(settings.bootstrap_api_key.get_secret_value())
        if why is not None:
            raise Refusal(f"RGRID_BOOTSTRAP_API_KEY cannot be a key: {why}")
    try:
        check_storage(settings)
    except UnknownStorage as error:
        raise Refusal(str(error)) from None
    try:
        load_presets(settings.presets_file)
    except PresetInvalid as error:
        raise Refusal(str(error)) from None
    if settings.engine != "local":
        raise Refusal("the engine 'ray' is not available in this version; leave --engine out")


def _serve(settings: Settings, _arguments: argparse.Namespace) -> int:
    # until it serves (see there), for the same reason as in __main__
    gc.disable()
    from rgrid_server.serve import serve

    return serve(settings)


def _status(settings: Settings, _arguments: argparse.Namespace) -> int:
    print(status_of(settings.data_dir))
    return 0


def _stop(settings: Settings, _arguments: argparse.Namespace) -> int:
    stop(settings.data_dir)
    print("stopped")
    return 0


def _migrate(settings: Settings, _arguments: argparse.Namespace) -> int:
    make_data_directory(settings.data_dir)
    migrate(settings)
    print(f"{name_of(settings)} has this version's schema")
    return 0


def _backup(settings: Settings, arguments: argparse.Namespace) -> int:
    from rgrid_server.backup.making import make_backup

    _existing_database(settings)
    made = make_backup(settings, arguments.target, is_thorough=arguments.verify)
    print(f"{arguments.target} has the rows and {made.blobs} blobs ({made.blob_bytes} bytes); all are there")
    print("bring it back with rgrid server restore, into an empty --data-dir")
    return 0


def _restore(settings: Settings, arguments: argparse.Namespace) -> int:
    from rgrid_server.backup.restoring import restore

    made = restore(arguments.source, settings, is_thorough=arguments.verify)
    print(f"{name_of(settings)} is as it was at {made.made_at}, with {made.blobs} blobs")
    return 0


def _prices(settings: Settings, arguments: argparse.Namespace) -> int:
    _existing_database(settings)
    if arguments.action == "load":
        if arguments.file is None:
            raise Refusal("name the file with the prices: rgrid server prices load FILE")
        _load_prices(settings, arguments.file)
    book = asyncio.run(_with_database(settings, lambda database: database.read(spend.load_prices)))
    print("price                engine  from        EUR per vCPU-hour  EUR per GiB-hour")
    for price in book:
        vcpu, gib = price.nanos_per_vcpu_hour / 1e9, price.nanos_per_gib_hour / 1e9
        since = shown_time(price.effective_from_ms)
        print(f"{price.price_id:<20} {price.engine:<7} {since}  {vcpu:>17.9f}  {gib:>16.9f}")
    return 0


def _load_prices(settings: Settings, file: Path) -> None:
    try:
        wanted = read_file(file, "prices", read_prices)
        added = asyncio.run(
            _with_database(settings, lambda db: db.write(lambda c: add_prices(c, wanted, now_ms())))
        )
    except FileInvalid as error:
        raise Refusal(str(error)) from None
    except PricesInvalid as error:
        told = "".join(f"\n  {problem}" for problem in error.problems)
        raise Refusal(f"nothing of {file} was taken:{told}") from None
    print(f"{len(added)} of the {len(wanted)} prices of {file} are new; every server goes by them")


def _keys(settings: Settings, arguments: argparse.Namespace) -> int:
    return _with_tenancy(settings, lambda tenancy: _manage_keys(tenancy, arguments))


def _tenants(settings: Settings, arguments: argparse.Namespace) -> int:
    return _with_tenancy(settings, lambda tenancy: _manage_tenants(tenancy, arguments))


def _secrets(settings: Settings, arguments: argparse.Namespace) -> int:
    from rgrid_server import secretkeys
    from rgrid_server.store import secrets

    if arguments.action == "new-key":
        print(secretkeys.new_key())
        return 0
    _existing_database(settings)
    own_file = settings.data_dir / secretkeys.KEYS_FILE if settings.secret_keys is None else None
    if own_file is not None:
        if is_running(settings.data_dir):
            raise Refusal(
                "a server runs on this data directory; stop it first, for it keeps its keys in memory"
            )
        secretkeys.prepend_key(own_file)
    sealer = secretkeys.make_sealer(settings)
    try:
        count = asyncio.run(
            _with_database(
                settings,
                lambda database: database.write(lambda c: secrets.reseal(c, sealer.seal_anew), is_long=True),
            )
        )
    except Unreadable as error:
        raise Refusal(
            f"a secret cannot be sealed anew: {error}; nothing was changed, and all keys are kept"
        ) from None
    if own_file is not None:
        secretkeys.keep_newest(own_file)
    print(f"{count} secrets are sealed with the newest key; older ones are not needed any more")
    return 0


def _with_tenancy(settings: Settings, manage: Callable[[Tenancy], Awaitable[int]]) -> int:
    _existing_database(settings)

    return asyncio.run(_with_database(settings, lambda database: manage(Tenancy(database))))


async def _with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    database = open_database(settings)
    try:
        return await work(database)
    finally:
        await database.close()


async def _manage_tenants(tenancy: Tenancy, arguments: argparse.Namespace) -> int:
    rows = await tenancy.list_tenants()
    if arguments.action == "limit":
        known = {row["name"]: row["tenant_id"] for row in rows}
        if arguments.tenant not in known:
            raise Refusal(f"name a tenant to limit; there is {', '.join(known)}")
        if "max_running" not in arguments:
            raise Refusal("say how many at once with --max-running N, or --max-running none for no limit")
        await tenancy.set_max_running(known[arguments.tenant], arguments.max_running)
        print("limited" if arguments.max_running is not None else "not limited any more")
        return 0
    for row in rows:
        limit = "no limit" if row["max_running"] is None else f"{row['max_running']} at once"
        print("  ".join([row["tenant_id"], row["name"], limit]))
    return 0


async def _manage_keys(tenancy: Tenancy, arguments: argparse.Namespace) -> int:
    if arguments.action == "add":
        try:
            scopes = parse_scopes(arguments.scopes)
        except ValueError as error:
            raise Refusal(str(error)) from None
        tenant_id = await tenancy.default_tenant()
        if arguments.tenant:
            named: dict[str, Any] = {row["name"]: row["tenant_id"] for row in await tenancy.list_tenants()}
            tenant_id = named.get(arguments.tenant) or await tenancy.add_tenant(arguments.tenant)
        issued = await tenancy.issue_key(tenant_id, scopes, arguments.name)
        print(issued.key)
        return 0
    if arguments.action in {"revoke", "rotate"}:
        if not arguments.key_id:
            raise Refusal(f"name the key to {arguments.action} by its id; `rgrid server keys` lists them")
        if arguments.action == "revoke":
            await tenancy.revoke_key(arguments.key_id)
            print("revoked")
        else:
            print((await tenancy.rotate_key(arguments.key_id, overlap_seconds=3600)).key)
        return 0
    for row in await tenancy.list_keys():
        state = "revoked" if row["revoked_at_ms"] else "valid"
        shown = [row["key_id"], f"{row['prefix']}…", state, row["scopes"], row["tenant_name"], row["name"]]
        print("  ".join(shown))
    return 0


def _existing_database(settings: Settings) -> None:
    if not has_data(settings):
        raise Refusal(f"there are no data in {settings.data_dir}; give the server's --data-dir")
