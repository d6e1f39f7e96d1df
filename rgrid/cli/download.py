"""``rgrid download``."""

from __future__ import annotations

from pathlib import Path

import click

from rgrid.cli.bars import Bar
from rgrid.cli.connect import connect, is_batch_id, relative_to_cwd
from rgrid.cli.display import print_table, tell_passed_over


@click.command(help="Fetch the outputs of an execution, or of every execution of a batch.")
@click.argument("identifier", metavar="ID")
@click.option(
    "--output-dir", type=click.Path(path_type=Path), default=Path(), help="Where to; here by default."
)
@click.option("--list", "list_only", is_flag=True, help="List them instead.")
@click.option("--file", "names", multiple=True, metavar="NAME", help="Only this one.")
def command(identifier: str, output_dir: Path, list_only: bool, names: tuple[str, ...]) -> None:
    """Fetch or list."""
    with connect() as client:
        if is_batch_id(identifier):
            from rgrid.cli.run_batch import fetch

            if list_only or names:
                raise click.UsageError("--list and --file are for one execution; name one of the batch")
            fetch(client, identifier, output_dir, is_flat=False)
            return
        if list_only:
            outputs = [item for item in client.artifacts(identifier) if item.artifact_type == "output"]
            print_table(
                ["FILE", "BYTES", "TYPE"], [[i.filename, str(i.size_bytes), i.content_type] for i in outputs]
            )
            return
        for path in client.download(identifier, output_dir, names=names or None, progress=Bar("downloading")):
            click.echo(relative_to_cwd(path))
        if not names:
            tell_passed_over(client.get(identifier).passed_over)
