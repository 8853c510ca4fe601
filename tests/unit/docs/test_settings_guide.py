"""docs/settings.md and .env.example name every setting, with its default and bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from bridge import settings
from bridge.errors import SettingsError
from bridge.settings import Settings
from devstack.migrations import PROJECT
from tests.support.blocks import Block, code_of, rows_of
from tests.support.source import DECLARED, DEFAULTS, READ
from tests.support.source import PROJECT_ENV as GOOD

PAGE = PROJECT / "docs" / "settings.md"
EXAMPLE = (PROJECT / ".env.example").read_text()
NAME = r"`([A-Z]+_[A-Z_]+)`"
CHECKED = code_of("ini")


@dataclass(frozen=True)
class Documented:
    """A row of the page. `low` and `high` are None if the page gives no bounds."""

    name: str
    default: str
    unit: str
    low: float | None
    high: float | None
    meaning: str


def _read() -> list[Documented]:
    found = []
    for heading in ("Project", "Functions", "Replies", "Realtime", "Leases and pace", "Health and logs"):
        for name, default, unit, *bounds, meaning in rows_of(PAGE, heading):
            low, high = [float(bound.replace(",", "")) if bound else None for bound in bounds] or (None, None)
            found.append(Documented(name.strip("`"), default.strip("`"), unit, low, high, meaning))
    return found


DOCUMENTED = _read()
NUMBERS = [row for row in DOCUMENTED if row.low is not None]


def with_value(name: str, value: object) -> Settings:
    return settings.load(GOOD | {name: str(value)})


def test_page_lists_every_setting_exactly_once() -> None:
    assert sorted(row.name for row in DOCUMENTED) == sorted(READ)


@pytest.mark.parametrize("row", DOCUMENTED, ids=lambda row: row.name)
def test_documented_default_applies_when_unset(row: Documented) -> None:
    if row.default == "required":
        with pytest.raises(SettingsError, match=row.name):
            settings.load({name: value for name, value in GOOD.items() if name != row.name})
        return
    if row.name == "SUPABASE_SERVICE_ROLE_KEY":
        legacy = {"SUPABASE_URL": GOOD["SUPABASE_URL"], row.name: "eyJ"}
        assert (settings.load(legacy).supabase_key, settings.load(GOOD | legacy).supabase_key) == ("eyJ", "sb_secret_x")
        return
    value: object = getattr(DEFAULTS, row.name.removeprefix("BRIDGE_").lower())
    if isinstance(value, tuple):
        value = ",".join(value)
    documented = row.default.replace(",", "") if row.low is not None else row.default
    assert documented == ("none" if value is None else f"{value:.10g}" if isinstance(value, int | float) else value)


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_values_outside_documented_bounds_are_rejected(row: Documented) -> None:
    assert row.low is not None
    assert row.high is not None
    for value in (row.low, row.high):
        with_value(row.name, f"{value:g}" if value % 1 else int(value))
    for value in (row.low / 2 if row.low % 1 else row.low - 1, row.high + 1):
        with pytest.raises(SettingsError, match=re.escape(f"from {row.low:,.10g} to {row.high:,.10g}.")):
            with_value(row.name, f"{value:g}" if value % 1 else int(value))


def test_every_number_has_its_bounds_and_unit() -> None:
    assert {row.name: (row.low, row.high) for row in NUMBERS} == {
        name: (setting["minimum"], setting["maximum"])
        for name, setting in DECLARED.items()
        if setting.get("type") in ("integer", "number")
    }
    for row in NUMBERS:
        assert row.unit
        for ending, unit in (("_SECONDS", "seconds"), ("_MS", "milliseconds"), ("_PER_SECOND", "events a second")):
            assert not row.name.endswith(ending) or row.unit == unit, row


@pytest.mark.parametrize("name", ["BRIDGE_LOG_FORMAT", "BRIDGE_LOG_LEVEL"])
def test_documented_choices_are_accepted_and_others_rejected(name: str) -> None:
    (row,) = [row for row in DOCUMENTED if row.name == name]
    documented = {row.default, *re.findall(r"`(\w+)`", row.meaning)}
    with pytest.raises(SettingsError) as refused:
        with_value(name, "another")
    assert documented == set(re.findall(r"\w+", refused.value.remedy.partition("one of ")[2]))
    for choice in documented:
        with_value(name, choice)


def test_page_lists_variables_of_model_and_devstack() -> None:
    rows = rows_of(PAGE, "Read by others")
    named = {name for row in rows for name in re.findall(NAME, row[0])}
    clients = (PROJECT / "baml_src" / "clients.baml").read_text()
    ours = set(re.findall(r"\benv\.(\w+)", re.sub(r"//.*", "", clients)))
    devstack = "".join(path.read_text() for path in (PROJECT / "devstack").rglob("*.py"))
    variables = set(re.findall(r'"(DEVSTACK_\w+)"', devstack)) | {"SUPABASE_PUBLISHABLE_KEY"}
    assert '"SUPABASE_PUBLISHABLE_KEY"' in devstack
    assert named == ours | variables


def test_example_names_every_variable_of_a_deployment() -> None:
    named = set(re.findall(r"^# ([A-Z_]+)=", EXAMPLE, re.M))
    legacy, development = {"SUPABASE_SERVICE_ROLE_KEY"}, {"DEVSTACK_POSTGRES", "DEVSTACK_LIMITS"}
    assert named == set(re.findall(NAME, PAGE.read_text())) - legacy - development


@pytest.mark.parametrize("row", DOCUMENTED, ids=lambda row: row.name)
def test_example_has_the_documented_defaults(row: Documented) -> None:
    if row.name.startswith("SUPABASE_"):
        return  # values of a project have no default
    (value,) = re.findall(rf"^# {row.name}=(\S*)", EXAMPLE, re.M)
    assert value == (
        "" if row.default == "none" else row.default.replace(",", "") if row.low is not None else row.default
    )


def test_example_error_is_printed_by_the_bridge() -> None:
    [(text, name, value)] = re.findall(r"^bridge: ((\w+) is '(\w+)'\. .*)$", PAGE.read_text(), re.M)
    with pytest.raises(SettingsError) as refused:
        with_value(name, value)
    assert str(refused.value) == text


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.name)
def test_code_blocks_set_existing_variables(block: Block) -> None:
    names = dict(line.split("=", 1) for line in block.text.splitlines() if line and not line.startswith("#"))
    known = set(re.findall(NAME, PAGE.read_text()))
    assert set(names) <= known
    settings.load(GOOD | names)
