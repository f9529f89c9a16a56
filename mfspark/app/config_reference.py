"""The reference of the configuration, made from the settings themselves.

python -m mfspark.app.config_reference > docs/configuration.md
"""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mfspark.app.config import Config

_HEAD = """# Configuration

A TOML file with the sections below; `--set section.key=value` overrides single values. Unknown keys
are errors. This page is printed by `python -m mfspark.app.config_reference`.
"""


def reference() -> str:
    """All sections as Markdown: a table of keys, defaults and meanings each."""
    parts = [_HEAD]
    fields_of_als = dict(_keys(Config.model_fields["als"].annotation))
    for section, field in Config.model_fields.items():
        own: Any = field.annotation
        rows, shared = [], []
        for name, key in _keys(own):
            known = fields_of_als.get(name)
            if section != "als" and known is not None and _row(name, known) == _row(name, key):
                shared.append(f"`{name}`")
            else:
                rows.append(_row(name, key))
        # The first sentence of the class, as a sentence about the section.
        parts.append(f"## [{section}]\n\n{(own.__doc__ or '').strip().splitlines()[0]}\n")
        if rows:
            parts.append("| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n")
        if shared:
            # SGD's hyper-parameters are those of ALS, not just keys of the same names.
            start = "Taken from `[als]` when not set" if section == "sgd" else "As in `[als]`"
            parts.append(f"{start}: {', '.join(shared)}.\n")
    return "\n".join(parts)


def _keys(model: Any, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def plain_reference() -> str:
    """All keys for a console: section.key, default, meaning and what is allowed."""
    lines = []
    for section, field in Config.model_fields.items():
        for name, key in _keys(field.annotation):
            text = f"{section}.{name} ({_default(key)}): {_meaning(key)}"
            lines += textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    return "not set" if value is None else json.dumps(value)


def _meaning(field: FieldInfo) -> str:
    """The description, and the words or the range that are allowed."""
    allowed = _allowed(field)
    return f"{field.description or ''}{f' [{allowed}]' if allowed else ''}"


def _allowed(field: FieldInfo) -> str:
    words = list(_words(field.annotation))
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(bound, name)
    ]
    is_truth = field.annotation is bool
    return ", ".join([*words, *bounds, *(["true, false"] if is_truth else [])])


def _words(annotation: Any) -> Iterator[str]:
    """The values of all Literals in a type."""
    if get_origin(annotation) is Literal:
        yield from (json.dumps(word) for word in get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _words(part)


def _row(name: str, field: FieldInfo) -> str:
    default = _default(field)
    default = default if default == "not set" else f"`{default}`"
    meaning = _meaning(field).replace("|", "\\|")
    return f"| `{name}` | {default} | {meaning} |"


if __name__ == "__main__":
    print(reference(), end="")
