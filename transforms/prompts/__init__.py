"""Prompts: one Jinja template per prompt, rendered in a sandbox with strict variables.

`topics` and `questions` follow the structure of paper 000, app. E.2; `triples` that of app. E.1; `rewrite` is the
prompted aligner of app. D; `answer` asks an upstream model with no principles (app. C). The wording is our own.
"""

from functools import cache
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, Template, meta
from jinja2.sandbox import SandboxedEnvironment

from transforms.tables.identity import content_id

PROMPTS_DIR = Path(__file__).parent


@cache
def environment() -> SandboxedEnvironment:
    """Return the sandboxed environment of all prompts, where an unknown variable is an error."""
    return SandboxedEnvironment(
        loader=FileSystemLoader(PROMPTS_DIR), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


@cache
def template(name: str) -> Template:
    return environment().get_template(f"{name}.jinja")


def template_digest(name: str) -> str:
    """Return a digest of a prompt's wording and of the templates it includes."""
    source = (PROMPTS_DIR / f"{name}.jinja").read_text(encoding="utf-8")
    included = filter(None, meta.find_referenced_templates(environment().parse(source)))
    return content_id(source, *((PROMPTS_DIR / file).read_text(encoding="utf-8") for file in sorted(included)))


def render(name: str, **variables: object) -> str:
    """Return the prompt `name` with its variables filled in, without trailing white space.

    Raises jinja2.UndefinedError where the template asks for a variable that is missing.
    """
    return template(name).render(**variables).rstrip()
