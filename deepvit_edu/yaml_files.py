"""Reading YAML: plans, recipes, claims and campaigns are read here, and nowhere else."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .reading import UnreadableError, reading

LARGEST = 100_000
"""Values in a file; one that holds more was blown up by aliases, which repeat what an anchor names."""

DEEPEST = 50


class _Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-6 as a number and 1:30 as text, and refuses a key that is given twice, and 010."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(problem=f"the key '{key}' (line {line}) is there twice")
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        """A whole number; YAML 1.1 would take 1:30 for ninety, and 010 for eight, as YAML 1.2 does not."""
        if re.match(r"[-+]?0[0-7_]+$", node.value):
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value} (line {node.start_mark.line + 1}) begins with 0; write it without"
            )
        return node.value if ":" in node.value else super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float | str:
        """A number."""
        return node.value if ":" in node.value else super().construct_yaml_float(node)


for kind, construct in (("int", _Loader.construct_yaml_int), ("float", _Loader.construct_yaml_float)):
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", construct)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def yaml_value(text: str) -> Any:
    """What a word of a command line means as YAML: a number, true, a list, or the word itself."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # a ValueError: what looks like a date and is none
        return text


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        OSError: when it cannot be opened.
        ValueError: when it is not UTF-8 text or not YAML, a key is given twice, or aliases make more than `LARGEST`
            values of it; the message names the file.
    """
    with reading(path):
        text = Path(path).read_text(encoding="utf-8-sig")
        try:
            _check_depth(text)
            content = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) if isinstance(error, yaml.constructor.ConstructorError) else None
            raise UnreadableError(
                f"{path} is not YAML that can be read: {problem or ' '.join(str(error).split())}"
            ) from error
        _check_size(content)
        return content


def _check_depth(text: str) -> None:
    """RecursionError where lists and mappings stand deeper in one another than `DEEPEST`."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecursionError


def _check_size(content: Any) -> None:
    """ValueError where a file holds too many values, counted as often as aliases repeat them."""
    count, waiting = 0, [content]
    while waiting:
        value = waiting.pop()
        count += 1
        if count > LARGEST:
            raise ValueError(f"its aliases make more than {LARGEST:,} values of it; write it out")
        if isinstance(value, dict | list | set | tuple):
            waiting += [*value, *value.values()] if isinstance(value, dict) else value
