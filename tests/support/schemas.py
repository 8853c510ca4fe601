"""Generated BAML types: the source of functions that return them, for whatever reads or answers their schemas."""

from __future__ import annotations

import re
from random import Random

_ARGUMENTS = (
    "",
    "",
    "",
    '(prefix="Give me this:\\n")',
    "(prefix=null)",
    '(or_splitter=" | ")',
    '(or_splitter=" / ", map_style="object")',
    "(always_hoist_enums=true)",
    "(hoist_classes=true)",
    '(hoist_classes=true, hoisted_class_prefix="schema", quote_class_fields=true)',
    '(enum_value_prefix="* ")',
    '(map_style="angle", hoist_classes=false)',
)
_TEXTS = (
    "what it is",
    "ends with, {",
    "a: b",
    'in \\"quotes\\" here',
    "map<string, int>",
    "one or two",
    "// no",
    "[x]",
)
_WORDS = ("it's", "x or y", "a, b", "one", "two", "UPPER", "{}", "with: colon", "ünï")
_ALIASES = ("a name", "a: b", "dash-ed", "ünï", "x[]", "the/one")
_BEFORE = ("", "Do as you are told.\n\n", "Write a list:\n- one\n- two\n\n", 'Like {"a": 1}, and\n```\ncode\n```\n')
_AFTER = ("", "\n\nBe brief.", "\n\nThe end. Answer now:", "\n- one more: rule")
_PARTS = re.compile(r'\w+|"')


class SchemaMaker:
    """Writes the source of classes, enums and aliases from a seed, and of a function that returns one of them."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._prefix = f"T{seed}"
        self._enums: list[str] = []
        self._classes = [f"{self._prefix}C{n}" for n in range(self._random.randint(1, 4))]
        self._source: list[str] = []
        for n in range(self._random.randint(0, 3)):
            self._enum(f"{self._prefix}E{n}")
        for name in self._classes:
            self._class(name)

    def function(self, name: str) -> str:
        """The source of the types, and of a function of this name that returns one of them."""
        pick = self._random
        kind = self._type(0)
        if not {"int", "float", "bool", "null", "map", '"', *self._enums, *self._classes} & set(_PARTS.findall(kind)):
            kind = self._classes[0]  # text needs no schema
        arguments = pick.choice(_ARGUMENTS)
        if "null" in arguments and kind[0] in "ifb":
            arguments = ""  # a number without a word before it is no schema
        text = f"{pick.choice(_BEFORE)}{{{{ ctx.output_format{arguments} }}}}{pick.choice(_AFTER)}"
        role = pick.choice(("system", "user"))
        prompt = f'{{{{ _.role("{role}") }}}}\n{text}'
        function = f'function {name}() -> {kind} {{\n  client Model\n  prompt #"\n{prompt}\n"#\n}}\n'
        return "\n".join([*self._source, function])

    def _enum(self, name: str) -> None:
        values = []
        for n in range(self._random.randint(1, 9)):
            values.append(f"  V{n}{self._marks(': ')}")
        self._source.append("\n".join([f"enum {name} {{", *values, "}"]))
        self._enums.append(name)

    def _class(self, name: str) -> None:
        fields = [f"  f{n} {self._type(0)}{self._marks()}" for n in range(self._random.randint(1, 6))]
        about = [f'  @@description("{self._random.choice(_TEXTS)}")'] * self._random.randint(0, 1)
        # a way out for a class that contains itself
        self._source.append("\n".join([f"class {name} {{", *fields, *about, "}"]))

    def _marks(self, unlike: str = "\n") -> str:
        """An alias without `unlike` (of an enum's value, nothing tells it from a description), and a description."""
        pick = self._random
        aliases = [alias for alias in _ALIASES if unlike not in alias]
        alias = f' @alias("{pick.choice(aliases)} {pick.randint(1, 999)}")' if pick.random() < 0.2 else ""
        text = f' @description("{pick.choice(_TEXTS)}")' if pick.random() < 0.3 else ""
        return alias + text

    def _type(self, depth: int) -> str:
        pick = self._random
        simple = ["string", "int", "float", "bool", *self._enums]
        if depth > 2:
            return pick.choice(simple)
        roll = pick.random()
        if roll < 0.4:
            return pick.choice(simple)
        if roll < 0.5:
            return " | ".join(f'"{word}"' for word in pick.sample(_WORDS, pick.randint(2, 3)))
        if roll < 0.6:
            return f"({self._type(depth + 1)} | null)"
        if roll < 0.75:
            return f"({self._type(depth + 1)})[]"
        if roll < 0.82:
            return f"map<string, {self._type(depth + 1)}>"
        if roll < 0.9:
            return f"({self._type(depth + 1)} | {self._type(depth + 1)})"
        # a reference to itself is always optional, in a list or in a map, so that it can end
        name = pick.choice(self._classes)
        return pick.choice((f"({name} | null)", f"{name}[]", f"map<string, {name}>"))
