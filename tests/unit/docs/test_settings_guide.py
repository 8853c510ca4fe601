"""docs/settings.md and .env.example name every setting, with the default and the bounds that it has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge import settings
from bridge.errors import SettingsError
from bridge.settings import Settings
from devstack.migrations import PROJECT
from tests.support.blocks import Block, code_of, rows_of

PAGE = PROJECT / "docs" / "settings.md"
SOURCE = Path(settings.__file__).read_text()
EXAMPLE = (PROJECT / ".env.example").read_text()
GOOD = {"SUPABASE_URL": "https://abcd.supabase.co", "SUPABASE_SECRET_KEY": "sb_secret_x"}
NAME = r"`([A-Z]+_[A-Z_]+)`"
CHECKED = code_of("ini")


@dataclass(frozen=True)
class Documented:
    """A row of the page. `low` and `high` are None where it tells no bounds."""

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


def test_every_setting_is_there_and_none_is_invented() -> None:
    assert sorted(row.name for row in DOCUMENTED) == sorted(set(re.findall(r'"((?:BRIDGE|SUPABASE)_\w+)"', SOURCE)))


@pytest.mark.parametrize("row", DOCUMENTED, ids=lambda row: row.name)
def test_the_default_is_what_it_is_without(row: Documented) -> None:
    if row.default == "required":
        with pytest.raises(SettingsError, match=row.name):
            settings.load({name: value for name, value in GOOD.items() if name != row.name})
        return
    if row.name == "SUPABASE_SERVICE_ROLE_KEY":
        legacy = {"SUPABASE_URL": GOOD["SUPABASE_URL"], row.name: "eyJ"}
        assert (settings.load(legacy).supabase_key, settings.load(GOOD | legacy).supabase_key) == ("eyJ", "sb_secret_x")
        return
    value: object = getattr(Settings, row.name.removeprefix("BRIDGE_").lower())
    if isinstance(value, tuple):
        value = ",".join(value)
    told = row.default.replace(",", "") if row.low is not None else row.default
    assert told == ("none" if value is None else f"{value:g}" if isinstance(value, int | float) else value)


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_the_bounds_are_where_it_says_no(row: Documented) -> None:
    assert row.low is not None
    assert row.high is not None
    for value in (row.low, row.high):
        with_value(row.name, f"{value:g}" if value % 1 else int(value))
    for value in (row.low / 2 if row.low % 1 else row.low - 1, row.high + 1):
        with pytest.raises(SettingsError, match=re.escape(f"from {row.low:,.10g} to {row.high:,.10g}.")):
            with_value(row.name, f"{value:g}" if value % 1 else int(value))


def test_every_number_has_bounds_and_its_unit() -> None:
    assert {row.name for row in NUMBERS} == set(re.findall(r'_number\(\s*env, "(\w+)"', SOURCE))
    for row in NUMBERS:
        assert row.unit
        for ending, unit in (("_SECONDS", "seconds"), ("_MS", "milliseconds"), ("_PER_SECOND", "events a second")):
            assert not row.name.endswith(ending) or row.unit == unit, row


@pytest.mark.parametrize("name", ["BRIDGE_LOG_FORMAT", "BRIDGE_LOG_LEVEL"])
def test_choices_are_those_that_it_takes(name: str) -> None:
    (row,) = [row for row in DOCUMENTED if row.name == name]
    told = {row.default, *re.findall(r"`(\w+)`", row.meaning)}
    with pytest.raises(SettingsError) as refused:
        with_value(name, "another")
    assert told == set(re.findall(r"\w+", str(refused.value).partition("one of ")[2]))


def test_what_others_read_is_there_as_well() -> None:
    rows = rows_of(PAGE, "Read by others")
    named = {name for row in rows for name in re.findall(NAME, row[0])}
    clients = (PROJECT / "baml_src" / "clients.baml").read_text()
    ours = set(re.findall(r"\benv\.(\w+)", re.sub(r"//.*", "", clients)))
    devstack = "".join(path.read_text() for path in (PROJECT / "devstack").rglob("*.py"))
    variables = set(re.findall(r'"(DEVSTACK_\w+)"', devstack)) | {"SUPABASE_PUBLISHABLE_KEY"}
    assert '"SUPABASE_PUBLISHABLE_KEY"' in devstack
    assert named == ours | variables


def test_the_example_names_all_that_a_deployment_sets() -> None:
    named = set(re.findall(r"^# ([A-Z_]+)=", EXAMPLE, re.M))
    legacy, development = {"SUPABASE_SERVICE_ROLE_KEY"}, {"DEVSTACK_POSTGRES", "DEVSTACK_LIMITS"}
    assert named == set(re.findall(NAME, PAGE.read_text())) - legacy - development


@pytest.mark.parametrize("row", DOCUMENTED, ids=lambda row: row.name)
def test_the_example_has_the_same_defaults(row: Documented) -> None:
    if row.name.startswith("SUPABASE_"):
        return  # values of a project, which have none
    (value,) = re.findall(rf"^# {row.name}=(\S*)", EXAMPLE, re.M)
    assert value == (
        "" if row.default == "none" else row.default.replace(",", "") if row.low is not None else row.default
    )


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.name)
def test_blocks_set_what_there_is(block: Block) -> None:
    names = dict(line.split("=", 1) for line in block.text.splitlines() if line and not line.startswith("#"))
    known = set(re.findall(NAME, PAGE.read_text()))
    assert set(names) <= known
    settings.load(GOOD | names)
