"""The command `prolific prior vocabulary`."""

import textwrap
from typing import Annotated

import typer


def vocabulary(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the list.")] = False,
) -> None:
    """List the words and phrases that the prior knows.

    The Toybox and priors of your own were trained on prompts of a fixed form.
    Others, such as Stable Diffusion, accept any text.

    Examples:
    $ prolific prior vocabulary
    """
    from flows.prompt_store.vocabulary import has_vocabulary
    from tasks.runtime.project import Project

    project = Project.find()
    config = project.shared_config()
    closed = has_vocabulary(project, config)
    if json:
        from json import dumps

        from prolific_core.toybox.grammar import vocabulary as words

        print(dumps({"prior": config.prior.path, "closed": closed, **(words() if closed else {})}))
    elif closed:
        print(_page())
    else:
        print(f"{config.prior.path} has no fixed vocabulary: any text is a prompt")


def _page() -> str:
    """Return the vocabulary as text for a terminal of 80 columns."""
    from prolific_core.toybox.grammar import VARIANTS, vocabulary

    words = vocabulary()
    variants = [f"{family} {' or '.join(traits)}" for family, traits in VARIANTS.items()]
    sections = {
        "families": [_list(words["families"])],
        "colours": [f"{_list(words['colours'])} (or grey)"],
        "stripes": ["a red mug with white stripes; a red and white striped mug"],
        "relations": [
            f"{_list(words['relations'])}; for example, a red mug on a blue cube",
            f"between {_list(words['families in relations'])}",
        ],
        "rooms": ["a blue room, with --preset room"],
        "normal maps": ["a normal map of a mug, which names no colour"],
        "variants": variants,
        "views": [_list(words["views"])],
        "heights": [_list(words["heights"])],
        "backgrounds": ["on a red background, with any of the colours"],
    }
    lines = [
        "A prompt names an object and its colour, for example: a red mug. It may name",
        "more, in this order: a white snowman with a hat, front left view, seen from a",
        "low angle, on a blue background. These are the words:",
        "",
    ]
    for title, entries in sections.items():
        for entry in entries:
            lines.append(textwrap.fill(f"{title:<13}{entry}", 80, subsequent_indent=" " * 13))
            title = ""
    return "\n".join(lines)


def _list(words: list[str]) -> str:
    return ", ".join(words)
