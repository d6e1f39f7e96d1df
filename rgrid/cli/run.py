"""``rgrid run``."""

from __future__ import annotations

import gc
import uuid
from pathlib import Path
from typing import Any

import click

from rgrid.cli.connect import connect, parse_pairs, parse_secrets
from rgrid.cli.display import tell

_HELP = """Run SCRIPT with ARGS on the grid.

Arguments that name existing files are carried along, the script's output appears here as if it ran
here, and the files that it makes are in this directory afterwards. A requirements.txt beside the
script, or dependencies in its PEP 723 block, are installed for it.

RGrid's own options may stand anywhere; those that it does not know go to the script, and so does all
after --.

With --batch the script runs once for every file that matches, each time with the file as its first argument
(or in place of {} where an argument has it); outputs go to ./outputs/<file>/.
"""


@click.command(help=_HELP, context_settings={"ignore_unknown_options": True})
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--runtime", help="python:3.11 and the like; see `rgrid doctor`.")
@click.option("--env", "-e", "env", multiple=True, metavar="K=V", help="An environment variable.")
@click.option(
    "--secret",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A secret variable, masked in logs; without a value, one kept on the server.",
)
@click.option("--requirements", type=click.Path(path_type=Path), help="Packages to install.")
@click.option("--batch", "batch_glob", metavar="GLOB", help="Run once for every file that matches.")
@click.option("--parallel", type=click.IntRange(min=1), metavar="N", help="So many of a batch at once.")
@click.option("--output-dir", type=click.Path(path_type=Path), help="Where outputs go.")
@click.option("--flat", is_flag=True, help="A batch's outputs without a folder for each file.")
@click.option("--remote-only", is_flag=True, help="Leave outputs on the grid.")
@click.option("--watch", "-w", is_flag=True, help="Tell how a batch goes, even where stderr is no terminal.")
@click.option("--detach", "-d", is_flag=True, help="Print the id and return at once.")
@click.option("--metadata", "-m", multiple=True, metavar="K=V", help="A note to find it by.")
@click.option("--timeout", type=int, metavar="SECONDS", help="End it after so long; 300 by default.")
@click.option("--cpus", type=float, help="vCPUs to hold for it; 1 by default.")
@click.option("--memory", metavar="SIZE", help="Memory that it may use: 512M, 4G; 2G by default.")
@click.option("--priority", type=int, help="-100 to 100; higher runs first.")
@click.option("--retries", type=click.IntRange(0, 20), metavar="N", help="Run it again if it fails.")
@click.option("--cache", type=click.Choice(["off", "read", "read_write"]), help="Whether to reuse results.")
@click.option("--explain-cache", is_flag=True, help="Say why no earlier result was found: what has changed.")
@click.option(
    "--key", metavar="RUN_KEY", help="Your own name for this work: it runs once, however often asked."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line instead of output.")
@click.option("--verbose", "-v", is_flag=True, help="Say what happens, even where stderr is no terminal.")
def command(script: Path, args: tuple[str, ...], **given: Any) -> int:
    """Run a script."""
    gc.enable()
    cache = given["cache"] or ("read_write" if given["explain_cache"] else None)
    if given["explain_cache"] and cache == "off":
        raise click.UsageError("--explain-cache has nothing to explain with --cache off")
    if given["batch_glob"] is None and (given["flat"] or given["parallel"]):
        raise click.UsageError("--flat and --parallel belong to --batch")
    from rgrid.submissions import execution_body, read_requirements, read_script, requirements_beside
    from rgrid.texts import check_texts

    source = read_script(script)
    requirements: Path | None = given["requirements"]
    body = execution_body(
        source,
        env_vars=parse_pairs(given["env"], "--env"),
        requirements=read_requirements(requirements)
        if requirements
        else requirements_beside(script, given["runtime"]),
        runtime=given["runtime"],
        timeout_seconds=given["timeout"],
        cpus=given["cpus"],
        memory_mib=parse_memory_mib(given["memory"]) if given["memory"] else None,
        priority=given["priority"],
        user_metadata=parse_pairs(given["metadata"], "--metadata"),
        script_name=script.name,
        retry_policy={"max_retries": given["retries"]} if given["retries"] else None,
        secrets=parse_secrets(given["secret"]),
        cache=cache,
    )
    key = given["key"] or f"cli-{uuid.uuid4().hex}"
    # before anything is uploaded, and before a server is started
    check_texts(body | {"args": args, "run_key": key, "batch": given["batch_glob"]})
    if given["verbose"]:
        from rgrid.tracing import trace_id

        if (trace := trace_id()) is not None:
            tell(f"trace {trace}")
    if given["batch_glob"] is not None:
        from rgrid.cli.run_batch import BatchRun, run_batch

        with connect(may_start=True) as client:
            return run_batch(
                client,
                BatchRun(
                    template=body,
                    script=script,
                    args=args,
                    glob=given["batch_glob"],
                    parallelism=given["parallel"],
                    run_key=key,
                    output_dir=given["output_dir"] or Path("outputs"),
                    is_flat=given["flat"],
                    is_remote_only=given["remote_only"],
                    is_detached=given["detach"],
                    is_json=given["as_json"],
                    is_watched=given["watch"] or given["verbose"],
                ),
            )
    from rgrid.cli.run_one import SingleRun, run_one

    with connect(may_start=True) as client:
        return run_one(
            client,
            SingleRun(
                body=body | {"run_key": key},
                script=script,
                args=args,
                output_dir=given["output_dir"] or Path(),
                is_remote_only=given["remote_only"],
                is_detached=given["detach"],
                is_json=given["as_json"],
                is_verbose=given["verbose"],
                explains_cache=given["explain_cache"],
            ),
        )


def parse_memory_mib(text: str) -> int:
    """Read 512M, 4G, 1.5GiB or a number of MiB.

    Raises:
        click.UsageError: it is none of these.
    """
    lowered = text.strip().lower().removesuffix("ib").removesuffix("b")
    factors = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
    number, factor = (lowered[:-1], factors[lowered[-1:]]) if lowered[-1:] in factors else (lowered, 1)
    try:
        mib = round(float(number) * factor)
    except (ValueError, OverflowError):
        mib = 0
    if mib < 1:
        raise click.UsageError(f"--memory wants a size such as 512M or 4G, not {text!r}")
    return mib
