"""A report as one HTML page that needs nothing else: no script, no request, readable without colour and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib import resources

from unimrg_trainer.evaluation.reports.comparison import Comparison
from unimrg_trainer.evaluation.reports.figures import (
    Figure,
    gain_figures,
    interval_figures,
    loss_figures,
    scatter_figure,
    step_figures,
)
from unimrg_trainer.evaluation.reports.flips import Flip, Flips
from unimrg_trainer.evaluation.reports.report import ModelReport, Report
from unimrg_trainer.evaluation.reports.wording import (
    DOUBLE_DAGGER,
    LEGEND,
    RUN_HEADS,
    Text,
    category_rows,
    column_heads,
    notes_of,
    quote_text,
    quoted_sources,
    run_rows,
    score_rows,
    scoring_rows,
)


def as_page(report: Report) -> str:
    """Return the page."""
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    models = ", ".join(model.block.model for model in report.models)
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Results: {escape(models)}</title><style>\n{style}</style></head>\n<body>\n"
    )
    reading = '<a href="#reading">How to read this</a>'
    body = [f'<h1>Results</h1><p class="soft">{escape(models)} · {escape(report.date)} · {reading}</p>']
    body += [part for model in report.models for part in _model(model, report.date)]
    if report.left_out:
        body.append(f"<h2>Left out</h2>{_list(report.left_out)}")
    body.append(f'<h2 id="reading">How to read this</h2>{_list(LEGEND)}')
    return head + "\n".join(body) + "\n</body></html>\n"


def _model(model: ModelReport, date: str) -> Iterator[str]:
    yield f"<h2>{escape(model.block.model)}</h2>"
    yield _scores(model.main, f"{model.block.model}: scores", model)
    scatter = scatter_figure(model)
    yield _figures("Scores", [*([scatter] if scatter else []), *interval_figures(model.main)], date)
    for ablation, table in model.ablations:
        yield f"<h3>Ablations of {escape(ablation.method)}</h3>"
        yield _scores(table, f"Each compared with {ablation.method}")
    yield _figures("Gains by category", list(gain_figures(model.main)), date)
    for index, of_category in enumerate(model.main.categories):
        heads = [("category", ""), ("n", ""), *((row.label, "") for row in model.main.rows)]
        rows = ((name, cells, "") for name, cells in category_rows(model.main, index))
        title = f"{of_category.column.title} by category"
        yield f'<details class="table"><summary>{escape(title)}</summary>{_table(title, heads, rows)}</details>'
    yield _figures("During training", [*step_figures(model.main), *loss_figures(model.main)], date)
    if model.flips:
        yield "<h3>Items that changed</h3>"
        yield from map(_flips, model.flips)
    yield "<h3>Provenance</h3>"
    yield _texts("How it was scored", ["benchmark", "with"], map(list, scoring_rows(model)))
    if notes := notes_of(model):
        yield f"<p>Notes:</p>{_list(notes)}"
    if sources := quoted_sources(model):
        yield f"<p>{DOUBLE_DAGGER} Quoted:</p>{_list(sources)}"
    yield _texts("Runs", RUN_HEADS, run_rows(model))


def _scores(table: Comparison, caption: str, model: ModelReport | None = None) -> str:
    rows = [(label, cells, "delta" if label.startswith("Δ") else "") for label, cells in score_rows(table)]
    for quoted in model.quoted if model is not None else ():
        cells = [quote_text(quoted, column) for column in table.columns]
        rows.append((f"{quoted.label}, paper {DOUBLE_DAGGER}", cells, "quoted"))
    return _table(caption, [("", ""), *column_heads(table)], rows)


def _table(caption: str, heads: Sequence[tuple[str, str]], rows: Iterable[tuple[str, Sequence[Text], str]]) -> str:
    def small(text: str) -> str:
        return f"<small>{escape(text)}</small>" if text else ""

    def cell(text: Text) -> str:
        main = escape(text.main)
        return f"<td>{f'<b>{main}</b>' if text.bold else main}{small(text.note)}{small(text.last)}</td>"

    top = "".join(
        f'<th scope="col">{escape(title)}{small(note)}</th>' if title else '<td class="corner"></td>'
        for title, note in heads
    )
    lines = "".join(
        f'<tr{f" class={kind}" if kind else ""}><th scope="row">{escape(label)}</th>{"".join(map(cell, cells))}</tr>\n'
        for label, cells, kind in rows
    )
    return _scrolled(caption, f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>\n"
                     f"<tbody>{lines}</tbody></table>")  # fmt: skip


def _texts(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>\n" for row in rows)
    return _text_table(caption, escape(caption), top, lines)


def _text_table(name: str, caption: str, heads: str, rows: str) -> str:
    table = f'<table class="texts"><caption>{caption}</caption><thead><tr>{heads}</tr></thead>\n'
    return _scrolled(name, f"{table}<tbody>{rows}</tbody></table>")


def _scrolled(name: str, table: str) -> str:
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{table}</div>'


def _figures(title: str, figures: Sequence[Figure], date: str) -> str:
    if not figures:
        return ""
    shown = "".join(
        f"<figure>{one.drawing.render()}"
        f"<figcaption>{escape(one.caption)} <time>{escape(date)}</time></figcaption></figure>\n"
        for one in figures
    )
    return f'<h3>{escape(title)}</h3><div class="figures">{shown}</div>'


def _flips(flips: Flips) -> str:
    counts = f"{flips.gained} wrong → right, {flips.lost} right → wrong"
    title = f"{flips.column.title}, {flips.before} → {flips.after}: {counts}"
    parts = []
    for what, shown, of in (
        ("Wrong → right", flips.shown_gained, flips.gained),
        ("Right → wrong", flips.shown_lost, flips.lost),
    ):
        if shown:
            rows = "".join(map(_flip, shown))
            top = "".join(f'<th scope="col">{head}</th>' for head in ("item", "asked", "truth", "before", "after"))
            caption = f"{what}: {len(shown)} of {of}"
            parts.append(_text_table(f"{title}: {what}", caption, top, rows))
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def _flip(flip: Flip) -> str:
    def answer(text: str, extracted: str, picture: str, who: str) -> str:
        if picture:
            return f'<img src="{picture}" alt="what {who} generated: {escape(text)}">'
        read = f"<small>read as {escape(extracted)}</small>" if extracted and extracted != text else ""
        return f"{escape(text)}{read}"

    before, after = flip.before, flip.after
    return (
        f'<tr><td>{escape(before.item)}<small>{escape(before.category)}</small></td><td class="wide">'
        f"{escape(before.question)}</td><td>{escape(before.truth)}</td>"
        f"<td>{answer(before.prediction, before.extracted, flip.pictures[0], 'the first')}</td>"
        f"<td>{answer(after.prediction, after.extracted, flip.pictures[1], 'the second')}</td></tr>\n"
    )


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
