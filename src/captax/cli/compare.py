"""`captax compare`: the same pictures through several captioners, and votes on their captions."""

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captax.cli.endpoint import API_KEY, CONCURRENCY, connect
from captax.cli.options import (
    SOME_FAILED,
    Loaded,
    Offline,
    Replace,
    checkpoint_files,
    refuse_idle,
    wrote,
)
from captax.cli.score import STANDARD, Metrics, names
from captax.errors import CaptaxError, plural, quoted
from captax.files import NewFile, check_new_files, lies_in, make_folder

if TYPE_CHECKING:
    from captax.compare.comparison import Comparison
    from captax.compare.contenders import Contender

INTERRUPTED = 130
_OUT = Path("compare")
_VOTING = "Votes"
_VOTER, _PORT = "me", 8000
_BATCH = 32


def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Two captioners or more, each as MODEL or NAME=MODEL: a checkpoint (a directory, "
            "a hub name, `default`), a file of captions (as captax score reads them), or a "
            "server's model, as in llava@http://localhost:11434/v1. Default: none, for --vote and "
            "--results.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the pictures, or a dataset, whose captions are references. "
            "Default: none."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a dataset: train, dev or test. Default: all.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Compare only this many pictures, the first. Default: all."),
    ] = None,
    references: Annotated[
        bool, typer.Option(help="Whether to score captions against those of a dataset.")
    ] = True,
    metrics: Metrics = STANDARD,
    clip: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint directory or hub name of a CLIP; adds CLIPScore. Default: none."
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="What is asked of models that answer a prompt; others are asked nothing. "
            "Default: what each model was taught.",
            show_default=False,
        ),
    ] = "",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Largest number of tokens in a caption. Default: each captioner's own."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of pictures in a batch.")] = _BATCH,
    dtype: Loaded = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Pictures that a server is asked about at a time.")
    ] = CONCURRENCY,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable with the servers' key, if they need one.")
    ] = API_KEY,
    offline: Offline = False,
    retry_errors: Annotated[
        bool,
        typer.Option("--retry-errors", help="Caption pictures again that failed in earlier runs."),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder to write to; run again to go on where a run ended.")
    ] = _OUT,
    overwrite: Replace = False,
    vote: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a comparison: serve a page on this machine on which a person votes, "
            "without names, for one of two captions. Default: no votes.",
            rich_help_panel=_VOTING,
        ),
    ] = None,
    voter: Annotated[
        str, typer.Option(help="Whose votes they are.", rich_help_panel=_VOTING)
    ] = _VOTER,
    port: Annotated[
        int,
        typer.Option(min=1, max=65535, help="Port of the page.", rich_help_panel=_VOTING),
    ] = _PORT,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a comparison: print the win rates of its votes, and add them to its "
            "page. Default: none.",
            rich_help_panel=_VOTING,
        ),
    ] = None,
) -> None:
    """Compare captioners on the same pictures, on a page side by side.

    The folder gets index.html, comparison.json, captions/ and, from people, votes.jsonl. Captioners
    run one after the other. What is done is kept, so a run that was stopped goes on.
    """
    refuse_idle(
        ("--voter", voter != _VOTER and vote is None, "votes", "--vote FOLDER"),
        ("--port", port != _PORT and vote is None, "votes", "--vote FOLDER"),
    )
    running = {
        "--prompt": bool(prompt),
        "--max-new-tokens": max_new_tokens is not None,
        "--batch-size": batch_size != _BATCH,
        "--retry-errors": retry_errors,
    }
    loading = {"--dtype": dtype is not None}
    asking = {
        "--concurrency": concurrency != CONCURRENCY,
        "--api-key-env": api_key_env != API_KEY,
    }
    making = {
        "--split": split is not None,
        "--limit": limit is not None,
        "--no-references": not references,
        "--metrics": metrics != STANDARD,
        "--clip": clip is not None,
        **running,
        **loading,
        **asking,
        "--offline": offline,
        "--out": out != _OUT,
        "--overwrite": overwrite and vote is not None,
    }
    if vote is not None or results is not None:
        if models or data is not None or (vote is not None and results is not None):
            raise CaptaxError(
                "--vote and --results are for a comparison that is there; give one of them, and "
                "neither captioners nor --data"
            )
        for option, given in making.items():
            if given:
                raise CaptaxError(
                    f"{option} has no effect on a comparison that is there; leave it out"
                )
        if vote is not None:
            _vote(vote, voter, port)
        elif results is not None:
            _results(results, overwrite)
        return
    if data is None:
        raise CaptaxError("there is nothing to caption; add --data FOLDER")
    # Start-up time.
    from captax.collection.facts import names_in
    from captax.compare.contenders import Source, contenders_of

    if facts := names_in(prompt):
        raise CaptaxError(
            f"--prompt: {{{facts[0]}}} differs by picture, and a comparison asks all pictures the "
            "same; leave it out, or compare files that `captax caption` wrote"
        )
    contenders = contenders_of(models or [])
    sources = {each.source for each in contenders}
    for options, apply_to, what, other in (
        (asking, {Source.endpoint}, "servers", "a MODEL@http://..."),
        (loading, {Source.checkpoint}, "checkpoints", "one"),
        (running, {Source.checkpoint, Source.endpoint}, "captioners that run", "one"),
    ):
        if not apply_to & sources:
            refuse_idle(*((option, given, what, other) for option, given in options.items()))
    source = {"folder": str(data), "split": split, "limit": limit, "references": references}
    asked = {
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "retry_errors": retry_errors,
        "concurrency": concurrency,
        "key_variable": api_key_env,
    }
    how = {"dtype": dtype, "offline": offline}
    _compare(contenders, source, asked, how, names(metrics), clip, out, overwrite)


def _compare(
    contenders: "list[Contender]",
    data: dict[str, Any],
    asked: dict[str, Any],
    loading: dict[str, Any],
    metrics: list[str],
    clip: str | None,
    out: Path,
    overwrite: bool,
) -> None:
    # Start-up time.
    from captax.collection.item import files_left_out
    from captax.collection.outputs import write_json_lines
    from captax.collection.own_files import LINES
    from captax.collection.record import Record
    from captax.compare import comparison as made
    from captax.compare.child import ChildJob, read_measured
    from captax.compare.contenders import Source, check_checkpoint, check_clip
    from captax.compare.page import write_page
    from captax.compare.pictures import match_captions, open_pictures
    from captax.compare.results import read_results
    from captax.compare.runs import Stopped, is_complete, journal_folder, run_captioner
    from captax.compare.votes import VOTES, read_votes
    from captax.metrics import score
    from captax.metrics.caption_files import read_captions

    # Everything that may be wrong is looked at before anything takes long.
    inputs: list[Any] = [data["folder"]]
    for each in contenders:
        if each.source is not Source.endpoint:
            inputs += [each.model] if each.source is Source.file else checkpoint_files(each.model)
    captions = {each: out / "captions" / f"{each.label}.jsonl" for each in contenders}
    check_new_files(
        [
            NewFile("--out", out / made.PAGE, made.COMPARISON_PAGE, overwrite),
            NewFile("--out", out / made.FILE, made.COMPARISON, overwrite),
            *(NewFile("--out", path, LINES, overwrite) for path in captions.values()),
        ],
        inputs,
    )
    if lies_in(out, Path(data["folder"])):
        raise CaptaxError(
            f"{out}: is in the folder of the pictures, where its small pictures would be compared "
            "too; give another --out"
        )
    read_votes(out / VOTES)
    left_out: Counter[str] = Counter()
    pictures = open_pictures(**data, left_out=left_out)
    if left_out:
        print(f"captax: {data['folder']}: {files_left_out(left_out)}", file=sys.stderr)
    if any(each.references for each in pictures):
        score({"a": ""}, {"a": ["a"]}, metrics=metrics)  # raises for what it lacks
    else:
        of_references = "pictures with reference captions", "a dataset as --data"
        refuse_idle(("--metrics", metrics != names(STANDARD), *of_references))
    said: dict[Contender, dict[str, Record]] = {}
    jobs: dict[Contender, ChildJob] = {}
    for each in contenders:
        if each.source is Source.file:
            file = read_captions(each.model)
            found, failed, others = match_captions(file, pictures, data["folder"])
            if others:
                told = plural(others, "caption is", "captions are")
                print(f"captax: {each.model}: {told} of other pictures", file=sys.stderr)
            said[each] = {
                p.name: Record(p.name, ((found[p.name], None),))
                if p.name in found
                else Record(p.name, error=failed.get(p.name, "the file has no caption of it"))
                for p in pictures
            }
            continue
        if each.source is Source.endpoint:
            identity = {"url": each.url, "model": each.model}
        else:
            identity = {"model": each.model, "dtype": loading["dtype"]}
            identity |= check_checkpoint(each.model, offline=loading["offline"])
        settings = {
            **identity, "prompt": asked["prompt"], "max_new_tokens": asked["max_new_tokens"]
        }  # fmt: skip
        jobs[each] = ChildJob(
            each.name,
            each.model,
            each.url,
            str(journal_folder(out, each, settings)),
            str(out),
            settings,
            data,
            loading={} if each.url else loading,
            **asked,
        )
        if each.url and not is_complete(jobs[each], pictures):
            _check_endpoint(each, asked["key_variable"])
    if clip is not None:
        check_clip(clip, offline=loading["offline"])

    for folder in ("captions", made.THUMBNAILS):
        make_folder(out / folder, inside=out)
    try:
        for each, job in jobs.items():
            said[each] = run_captioner(job, pictures)
    except Stopped:
        print("captax: stopped; run the same command again to go on from here", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    said = {each: said[each] for each in contenders}
    for each, path in captions.items():
        rows = list(said[each].values())
        write_json_lines(path, lambda rows=rows: rows, own=True)  # type: ignore[misc]
    thumbnails = made.make_thumbnails(out, pictures)
    measured = {each.name: read_measured(Path(job.folder)) for each, job in jobs.items()}
    how = made.Measuring(metrics, clip)
    found_all = made.compare(data["folder"], pictures, said, measured, thumbnails, how)
    made.write_comparison(out, found_all)
    write_page(out, found_all, read_results(out, found_all))
    for line in table(found_all):
        print(CaptaxError(line))  # names may hold what controls a terminal
    for note in found_all.notes:
        print(CaptaxError(f"captax: {note}"), file=sys.stderr)
    wrote(out / made.PAGE)
    advice = f"captax: to vote on the captions: captax compare --vote {shlex.quote(str(out))}"
    print(CaptaxError(advice), file=sys.stderr)
    failed_ones = {n for records in said.values() for n, record in records.items() if record.error}
    if failed_ones:
        told = plural(len(failed_ones), "picture has", "pictures have")
        print(f"captax: {told} no caption of some captioner; the page says why", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def _check_endpoint(each: "Contender", variable: str) -> None:
    """Raise `CaptaxError` if the server is not there; warn if it does not list the model."""
    captioner = connect(each.url, each.model, concurrency=1, max_side=1, variable=variable)
    there = captioner.endpoint.models()
    if there and each.model not in (*there, *(name.removesuffix(":latest") for name in there)):
        print(
            f"captax: warning: {each.url} does not list a model {quoted(each.model)}; it has "
            f"{', '.join(map(quoted, there[:10]))}",
            file=sys.stderr,
        )


def table(comparison: "Comparison") -> list[str]:
    """A short table: a row for each captioner."""
    # Start-up time.
    from captax.compare.page import MISSING, metric, speed_told

    scores = list(comparison.captioners[0].scores)
    heads = [*scores, "words", "vocabulary", "repeated", "agreement", "pictures/s", "memory"]
    rows = [["", *heads]]
    for each in comparison.captioners:
        found = each.measured
        agreement = sum(each.agreement.values()) / len(each.agreement)
        memory = MISSING
        if found is not None and found.memory is not None:
            memory = f"{found.memory / 2**30:.2f} GiB"
        rows.append(
            [
                each.name,
                *(metric(name, each.scores[name].value) for name in scores),
                f"{each.words:.1f}",
                f"{each.vocabulary:,}",
                f"{100 * each.repeated:.0f}%",
                f"{100 * agreement:.0f}%",
                MISSING if found is None else speed_told(found.speed),
                memory,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    count = plural(len(comparison.pictures), "picture")
    scored = f"; scores x 100, of {comparison.scored:,}" if scores else ""
    return [*lines, f"{count}{scored}"]


def _vote(out: Path, voter: str, port: int) -> None:
    if not voter.strip():
        raise CaptaxError("--voter is empty; give a name")
    try:
        # An extra.
        from captax.compare.voting import serve_votes
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("captax"):
            raise
        raise CaptaxError(
            f"voting needs {missing.name}, which is not installed: pip install 'captax[serve]'"
        ) from None
    # Start-up time.
    from captax.collection.record import utf8
    from captax.compare.comparison import read_comparison
    from captax.compare.votes import Booth

    booth = Booth(out, read_comparison(out), utf8(voter.strip()))

    def ready(address: str) -> None:
        print(
            f"captax: vote on {address} as {quoted(booth.voter)}; {booth.done:,} of "
            f"{booth.total:,} answered; Ctrl-C ends it, and every vote is kept",
            file=sys.stderr,
        )

    try:
        serve_votes(booth, out, port=port, ready=ready)
    except KeyboardInterrupt:  # the usual end
        pass
    finally:
        booth.close()
    print(
        f"captax: {booth.done:,} of {booth.total:,} answered; see captax compare --results "
        f"{shlex.quote(str(out))}",
        file=sys.stderr,
    )


def _results(out: Path, overwrite: bool) -> None:
    # Start-up time.
    from captax.compare.comparison import COMPARISON_PAGE, PAGE, read_comparison
    from captax.compare.page import write_page
    from captax.compare.results import FILE, RESULTS, read_results

    check_new_files(
        [
            NewFile("--results", out / PAGE, COMPARISON_PAGE, overwrite),
            NewFile("--results", out / FILE, RESULTS, overwrite),
        ]
    )
    comparison = read_comparison(out)
    found = read_results(out, comparison)
    if found is None:
        raise CaptaxError(
            f"{out}: has no votes; add some with captax compare --vote {shlex.quote(str(out))}"
        )
    for line in found.lines():
        print(CaptaxError(line))  # a stranger's file may hold what controls a terminal
    write_page(out, comparison, found)
    wrote(out / PAGE)
    found.write(out)
    wrote(out / FILE)
