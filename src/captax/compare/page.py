"""A comparison as a web page, with small pictures in a folder beside it."""

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from captax.compare.comparison import PAGE, THUMBNAILS, Compared, Comparison, Shown, Statement
from captax.compare.results import Results
from captax.compare.words import WORD
from captax.errors import plural
from captax.files import write_text
from captax.images.web_page import filled
from captax.metrics import COUNTS, LOWER_IS_BETTER

MISSING = "\N{EN DASH}"


def write_page(out: Path, comparison: Comparison, results: Results | None = None) -> None:
    """Write the page to the folder `out`. Raises `OutputError` if that is not possible."""
    write_text(out / PAGE, page(comparison, results), inside=out)


def page(comparison: Comparison, results: Results | None = None) -> str:
    """The page as HTML."""
    template = (resources.files("captax.compare") / "page.html").read_text(encoding="utf-8")
    count = plural(len(comparison.pictures), "picture")
    title = f"{plural(len(comparison.captioners), 'captioner')} on {count}"
    parts = {
        "TITLE": escape(title),
        "DATA": escape(comparison.data),
        "TABLES": _scores(comparison)
        + _captions(comparison)
        + _agreement(comparison)
        + _cost(comparison)
        + ("" if results is None else _votes(results)),
        "ORDERS": _orders(comparison),
        "CARDS": "".join(_card(i, each, comparison) for i, each in enumerate(comparison.pictures)),
        "COUNT": count,
    }
    return filled(template, parts)


def metric(name: str, value: float) -> str:
    """A metric's value as tables have it: x 100, if it is no count."""
    return f"{value:,.0f}" if name in COUNTS else f"{100 * value:.1f}"


def seconds_told(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def bytes_told(count: int) -> str:
    """A size in words."""
    return f"{count / 2**30:.2f} GiB"


def speed_told(speed: float | None) -> str:
    """A speed in words."""
    return MISSING if speed is None else f"{speed:.3g}"


def _table(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], note: str = ""
) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows
    )
    label = escape(title)
    return (
        f'<section><h2>{label}</h2><div class="wide" role="region" tabindex="0" '
        f'aria-label="{label}, table"><table><thead><tr><th scope="col">Captioner</th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
        + (f'<p class="note">{escape(note)}</p>' if note else "")
        + "</section>"
    )


def _of_all(
    comparison: Comparison, cell: Callable[[Compared], Sequence[str]]
) -> list[tuple[str, Sequence[str]]]:
    return [(each.name, cell(each)) for each in comparison.captioners]


def _scores(comparison: Comparison) -> str:
    names = list(comparison.captioners[0].scores)
    if not names:
        return ""
    best = {
        name: (min if name in LOWER_IS_BETTER else max)(
            each.scores[name].value for each in comparison.captioners
        )
        for name in names
    }

    def cells(each: Compared) -> list[str]:
        found = []
        for name in names:
            value = each.scores[name]
            told = metric(name, value.value)
            if value.value == best[name] and name not in COUNTS:
                told = f'<strong>{told}<span class="unseen"> (best)</span></strong>'
            if value.low is not None and value.high is not None:
                low, high = metric(name, value.low), metric(name, value.high)
                told += f"<small>{low} to {high}</small>"
            found.append(told)
        return found

    columns = [f"{name} (lower is better)" if name in LOWER_IS_BETTER else name for name in names]
    note = (
        f"Values x 100, of {plural(comparison.scored, 'picture')}, with 95% bootstrap intervals "
        "where there are any. The best value is bold; where intervals overlap, the difference may "
        "be chance."
    )
    return _table(
        "Scores", columns, _of_all(comparison, cells), " ".join([note, *comparison.notes])
    )


def _captions(comparison: Comparison) -> str:
    def cells(each: Compared) -> list[str]:
        repeated = f"{100 * each.repeated:.0f}%"
        if each.most_repeated:
            repeated += f'<small dir="auto">“{escape(each.most_repeated)}”</small>'
        return [
            f"{escape(each.told)}",
            f"{each.captions:,}",
            f"{each.failed:,}",
            f"{each.words:.1f}<small>{each.shortest} to {each.longest}</small>",
            f"{each.vocabulary:,}",
            repeated,
        ]

    columns = ["Captions from", "Captions", "Failed", "Words", "Vocabulary", "Repeated"]
    return _table(
        "Captions",
        columns,
        _of_all(comparison, cells),
        "Words is the mean length of a caption. Vocabulary is the number of different words. "
        "Repeated is the share of captions that another picture has too, with the most frequent.",
    )


def _agreement(comparison: Comparison) -> str:
    names = [each.name for each in comparison.captioners]

    def cells(each: Compared) -> list[str]:
        return [
            MISSING if name == each.name else f"{100 * each.agreement[name]:.0f}%" for name in names
        ]

    return _table(
        "Agreement",
        names,
        _of_all(comparison, cells),
        "How many of their words two captions of a picture share, on average (Dice's coefficient; "
        "small words such as “the” do not count). Captioners may agree and both be wrong.",
    )


def _cost(comparison: Comparison) -> str:
    if not any(each.measured for each in comparison.captioners):
        return ""

    def cells(each: Compared) -> list[str]:
        found = each.measured
        if found is None:
            return [MISSING] * 5
        return [
            speed_told(found.speed),
            seconds_told(found.compiling) if found.device else MISSING,
            MISSING if found.memory is None else bytes_told(found.memory),
            MISSING if found.device_memory is None else bytes_told(found.device_memory),
            escape(found.device) or "elsewhere",
        ]

    columns = ["Pictures a second", "Compiling", "Memory", "On the accelerator", "Device"]
    return _table(
        "Speed and memory",
        columns,
        _of_all(comparison, cells),
        "Pictures a second include reading the pictures, and not loading the model and compiling "
        "its programs, which is done once. Memory is the peak of the whole process.",
    )


def _votes(results: Results) -> str:
    rows = []
    strong = results.strengths
    for i, (name, rate) in enumerate(zip(results.names, results.overall, strict=True)):
        low, high = (100 * each for each in rate.interval)
        share = MISSING if rate.share is None else f"{100 * rate.share:.0f}%"
        cells = [
            f"{rate.wins:,}",
            f"{rate.ties:,}",
            f"{rate.losses:,}",
            f"{share}<small>{low:.0f} to {high:.0f}</small>",
        ]
        if strong is not None:
            value, least, most = (100 * each for each in strong[i])
            cells.append(f"{value:.0f}%<small>{least:.0f} to {most:.0f}</small>")
        rows.append((name, cells))
    columns = ["Wins", "Ties", "Losses", "Win rate"]
    columns += [] if strong is None else ["Bradley-Terry"]
    told = "; ".join(results.notes())
    note = f"{told[:1].upper()}{told[1:]}. A tie is half a win; intervals are Wilson's, of 95%."
    if strong is not None:
        note += (
            " Bradley-Terry is the chance to be preferred to one of the others, with bootstrap "
            "intervals over pictures."
        )
    return _table("Votes", columns, rows, note)


def _orders(comparison: Comparison) -> str:
    """What the pictures can be ordered by."""
    options = [("place", "Order of the pictures"), ("disagreement", "Disagreement, highest first")]
    names = list(comparison.pictures[0].said[0].scores) if comparison.pictures else []
    for shown in comparison.pictures:
        names = names or next((list(each.scores) for each in shown.said if each.scores), [])
    for i, captioner in enumerate(comparison.captioners):
        for name in names if len(names) < 3 else [n for n in names if n in _ORDERING] or names[:1]:
            options.append((f"{name}:{i}", f"{name} of {captioner.name}, worst first"))
    return "".join(f'<option value="{escape(v)}">{escape(t)}</option>' for v, t in options)


_ORDERING = ("CIDEr-D", "CLIPScore")


def _card(place: int, shown: Shown, comparison: Comparison) -> str:
    distance = "" if shown.disagreement is None else f"{shown.disagreement:.4f}"
    failed = any(each.caption is None for each in shown.said)
    captions = {" ".join(each.caption.split()) for each in shown.said if each.caption is not None}
    if shown.thumbnail:
        picture = (
            f'<img src="{THUMBNAILS}/{escape(shown.thumbnail)}" alt="{escape(shown.name)}" '
            'loading="lazy" decoding="async">'
        )
    else:
        picture = '<div class="missing">this picture cannot be read</div>'
    said = "".join(
        _said(each, captioner.name, shown, place)
        for each, captioner in zip(shown.said, comparison.captioners, strict=True)
    )
    facts = [] if shown.disagreement is None else [f"disagreement {100 * shown.disagreement:.0f}%"]
    if shown.shared:
        words = ", ".join(f"<b>{escape(word)}</b>" for word in shown.shared)
        facts.append(f'all say <span dir="auto">{words}</span>')
    references = ""
    if shown.references:
        items = "".join(f'<li dir="auto">{escape(text)}</li>' for text in shown.references)
        references = f"<details><summary>References</summary><ul>{items}</ul></details>"
    return (
        f'<li data-place="{place}" data-disagreement="{distance}" data-failed="{int(failed)}" '
        f'data-differs="{int(len(captions) > 1)}"><article aria-labelledby="p{place}">'
        f'<div class="picture">{picture}</div><div class="text"><h3 id="p{place}">'
        f'{escape(shown.name)}</h3><p class="facts">{"; ".join(facts)}</p>'
        f'<dl class="said">{said}</dl>{references}</div></article></li>\n'
    )


def _said(each: Statement, name: str, shown: Shown, place: int) -> str:
    signs = {key: -1 if key in LOWER_IS_BETTER else 1 for key in each.scores}
    scores = "".join(
        f'<span data-score="{escape(key)}" data-rank="{signs[key] * value:.5f}">{escape(key)} '
        f"{metric(key, value)}</span> "
        for key, value in each.scores.items()
    )
    if each.caption is None:
        text = f'<p class="error"><strong>No caption</strong> {escape(each.error)}</p>'
    else:
        marked = _marked(each.caption, set(each.only), set(shown.shared))
        text = f'<p class="caption" dir="auto">{marked or "(an empty caption)"}</p>'
        if each.only:
            alone = escape(", ".join(each.only))
            text += f'<p class="only">only here: <span dir="auto">{alone}</span></p>'
    return (
        f"<div><dt>{escape(name)}</dt><dd>{text}"
        + (f'<p class="scores">{scores}</p>' if scores else "")
        + "</dd></div>"
    )


def _marked(caption: str, only: set[str], shared: set[str]) -> str:
    """A caption whose words are marked that nobody else says, or that everybody does."""
    parts, end = [], 0
    for found in WORD.finditer(caption):
        word = found[0].casefold()
        parts.append(escape(caption[end : found.start()]))
        told = escape(found[0])
        if word in only:
            told = f"<mark>{told}</mark>"
        elif word in shared:
            told = f"<b>{told}</b>"
        parts.append(told)
        end = found.end()
    return "".join(parts) + escape(caption[end:])
