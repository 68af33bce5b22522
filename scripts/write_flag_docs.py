"""Write docs/FLAGS.md from the flag table in get_args.py."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from get_args import FLAGS, GROUPS, flag_type
from utils import run_command

PATH = ROOT / "docs" / "FLAGS.md"
_HEAD = """# Flags

Every flag of `main.py`, as in `python main.py --help`. `python scripts/write_flag_docs.py` writes
this page from the flag table in `get_args.py`. Intervals are in mathematical notation: `(0, 1]`
excludes 0 and includes 1. Choices are case-insensitive.
"""


def _values(name: str) -> str:
    about = FLAGS[name].metadata
    if about["choices"]:
        return ", ".join(f"`{choice}`" for choice in about["choices"])
    kind = {"int": "integer", "float": "number", "str": "text", "bool": "`true`, `false`"}
    within = f" in {about['within']}" if about["within"] else ""
    return kind[flag_type(name).__name__] + within


def _row(name: str) -> str:
    flag = FLAGS[name]
    names = f"`--{name}`" + (f", `{flag.metadata['short']}`" if flag.metadata["short"] else "")
    default = flag.metadata["shown_default"] or f"`{flag.default}`"
    if flag.default == "" and not flag.metadata["shown_default"]:
        default = "empty"
    return f"| {names} | {_values(name)} | {default} | {flag.metadata['help']} |"


def flag_docs() -> str:
    """The page: one table per group of flags."""
    parts = [_HEAD]
    for group in GROUPS:
        rows = [_row(name) for name in FLAGS if FLAGS[name].metadata["group"] == group]
        table = ["| flag | values | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {group[0].upper()}{group[1:]}", "", *table, ""]))
    return "\n".join(parts)


def main() -> None:
    PATH.write_text(flag_docs())
    print(f"wrote {PATH.relative_to(ROOT)}")


if __name__ == "__main__":
    run_command(main)
