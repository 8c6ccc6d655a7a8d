#!/usr/bin/env python3
"""Renders the kernel families: templates/<operation>.h.j2 x templates/dict/<isa>.j2 -> generated/<operation>_<isa>.h.

This is the only place where Jinja2 runs. A skeleton holds the loops, a dictionary the tile operations of one ISA; a new
ISA is a dictionary file and one entry in DICTIONARIES. The rendered headers are checked in.

  templates/render.py           writes generated/ and removes what no longer belongs there
  templates/render.py --check   renders again and compares; exit 1 with a diff if a file is missing, extra or different
"""

import argparse
import difflib
import pathlib
import sys

import jinja2

SKELETONS = ["i2s_gemv", "i2s_gemm"]
DICTIONARIES = ["scalar", "xsimd", "avx2", "avx512"]
# Files of generated/ that a person writes.
HAND_WRITTEN = {"CMakeLists.txt"}

COMMAND = "templates/render.py"
COLUMNS = 120


DROP = "\0"  # a rendered line that holds nothing else is left out


def at(text, column):
    """Filter: a macro's lines, moved to `column`; the first line already stands there, blank ends are cut."""
    lines = text.strip("\n").split("\n")
    if lines == [""]:
        return DROP
    indent = " " * column
    return "\n".join(indent + line if i and line else line for i, line in enumerate(lines))


def environment(templates):
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(templates)),
        undefined=jinja2.StrictUndefined,
        line_statement_prefix="//%",
        line_comment_prefix="//#",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters["at"] = at
    return env


def tidy(text):
    """Cuts leading blank lines and DROP lines; preprocessor lines stand in column 0, as clang-format has them."""
    lines = [line for line in text.lstrip().split("\n") if line.strip() != DROP]
    return "\n".join(line.lstrip() if line.lstrip().startswith("#") else line for line in lines)


def render_all(templates):
    """The whole expected content of generated/: {file name: text}."""
    env = environment(templates)
    files = {}
    for skeleton in SKELETONS:
        template = env.get_template(f"{skeleton}.h.j2")
        for isa in DICTIONARIES:
            name = f"{skeleton}_{isa}.h"
            text = template.render(
                isa=isa,
                dictionary=f"dict/{isa}.j2",
                sources=f"templates/{skeleton}.h.j2 and templates/dict/{isa}.j2",
                command=COMMAND,
                guard=f"BITNET_GENERATED_{name.upper().replace('.', '_')}_",
            )
            text = tidy(text)
            for number, line in enumerate(text.split("\n"), 1):
                if len(line) > COLUMNS or line != line.rstrip():
                    sys.exit(
                        f"render.py: {name}:{number}: the rendered line is longer than {COLUMNS} columns or ends "
                        f"in blanks; mend the template: {line!r}"
                    )
            files[name] = text
    return files


def present_files(generated):
    if not generated.is_dir():
        return set()
    return {str(p.relative_to(generated)) for p in generated.rglob("*") if p.is_file()} - HAND_WRITTEN


def check(files, generated):
    """Prints every difference between `files` and the folder; returns how many there are."""
    problems = 0
    present = present_files(generated)
    for name in sorted(set(files) - present):
        problems += 1
        print(f"render.py: generated/{name} is missing; run {COMMAND} and commit the result")
    for name in sorted(present - set(files)):
        problems += 1
        print(f"render.py: generated/{name} is extra: no skeleton and dictionary of {COMMAND} render it; delete it")
    for name in sorted(present & set(files)):
        found = (generated / name).read_bytes().decode("utf-8", errors="replace")
        if found == files[name]:
            continue
        problems += 1
        print(f"render.py: generated/{name} differs from its templates; edit the templates and run {COMMAND}")
        diff = difflib.unified_diff(
            found.splitlines(),
            files[name].splitlines(),
            f"generated/{name} (found)",
            f"generated/{name} (expected)",
            lineterm="",
        )
        print("\n".join(diff))
    return problems


def write(files, generated):
    generated.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = generated / name
        if not path.exists() or path.read_bytes() != text.encode("utf-8"):
            path.write_bytes(text.encode("utf-8"))
            print(f"render.py: wrote generated/{name}")
    for name in sorted(present_files(generated) - set(files)):
        (generated / name).unlink()
        print(f"render.py: removed generated/{name}")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Render the kernel families of templates/ into generated/.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing; exit 1 on any difference")
    parser.add_argument("--root", type=pathlib.Path, default=root, help="project folder (default: this script's)")
    arguments = parser.parse_args()
    try:
        files = render_all(arguments.root / "templates")
    except jinja2.TemplateError as error:
        where = f"{getattr(error, 'name', None) or 'templates'}:{getattr(error, 'lineno', '?')}"
        sys.exit(f"render.py: {where}: {error.message}")
    generated = arguments.root / "generated"
    if not arguments.check:
        write(files, generated)
        return 0
    problems = check(files, generated)
    if problems:
        print(f"render.py: {problems} of {len(files)} expected files or extras do not match")
        return 1
    print(f"render.py: {len(files)} files match their templates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
