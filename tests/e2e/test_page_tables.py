"""Structured results as tables that fill while they stream."""

from __future__ import annotations

import json
from typing import Any, Literal

from playwright.async_api import Locator, expect

from devstack.model import ModelServer
from tests.e2e.tab import FUNCTIONS, Tab
from tests.e2e.test_accessibility import violations
from tests.e2e.test_page_hostile import FOUND, HOSTILE
from tests.support.workers import working

THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
COLUMNS = ["Name", "Price", "Pros", "Cons", "Verdict"]

# records every state of the last reply's table: its status, and the texts of its cells
_WATCH = """() => {
  const seen = (window.seenTables = []);
  const check = () => {
    const reply = [...document.querySelectorAll('[data-testid="message-assistant"]')].at(-1);
    const rows = [...(reply?.querySelectorAll("tbody tr") ?? [])];
    const state = [reply?.dataset.status, ...rows.map((row) => [...row.cells].map((cell) => cell.innerText))];
    if (rows.length > 0 && JSON.stringify(state) !== JSON.stringify(seen.at(-1))) seen.push(state);
  };
  const what = { childList: true, subtree: true, characterData: true, attributes: true };
  new MutationObserver(check).observe(document.body, what);
}"""


def option(name: str, price: float | None, pros: list[str], cons: list[str], verdict: str) -> dict[str, Any]:
    return {"name": name, "price": price, "pros": pros, "cons": cons, "verdict": verdict}


TRAIN = option("Train", 1188.5, ["time to read", "no jams"], ["a timetable"], "For long ways.")
FOOT = option("On foot", None, ["free"], [], "For the last mile.")
ROWS = [
    ["Train", "1,188.5", "time to read\nno jams", "a timetable", "For long ways."],
    ["On foot", "–", "free", "–", "For the last mile."],
]


def script(options: list[dict[str, Any]], directives: str = "") -> str:
    """A question that makes the demo model answer with this comparison."""
    return f"[[json={json.dumps({'reply': 'Here it is.', 'options': options})} {directives}]]"


async def asked(tab: Tab, question: str) -> Locator:
    """Ask in a session of the function `Compare`. Returns the table of the reply."""
    await tab.start("Compare")
    await tab.say(question)
    table = tab.replies.last.get_by_role("table", name="Options")
    await tab.explained(expect(table).to_be_visible())
    return table


async def test_a_table_fills_while_it_streams(environment: dict[str, str], model: ModelServer, tab: Tab) -> None:
    async with working(environment, functions=FUNCTIONS):
        await tab.page.evaluate(_WATCH)
        table = await asked(tab, script([TRAIN, FOOT], "delay=0.06 hold=10"))
        for last in ("Train", "no jams", "On foot", "For"):  # each ten tokens bring one of these
            await tab.explained(expect(table.get_by_text(last).last).to_be_visible())
            await expect(table.get_by_role("row")).to_have_count(2 if last in ("Train", "no jams") else 3)
            model.let_go()
        await tab.until_reply("done")
        await expect(table.get_by_role("columnheader")).to_have_text(COLUMNS)
        await expect(table.get_by_role("rowheader")).to_have_text(["Train", "On foot"])
        assert await tab.reply_text() == "Here it is."
        seen = await tab.page.evaluate("window.seenTables")
    assert seen[-1] == ["done", *ROWS]
    running = [rows for status, *rows in seen if status == "running"]
    assert len(running) > 5
    assert [len(rows) for rows in running] == sorted(len(rows) for rows in running)
    assert any(len(rows) == 1 for rows in running)
    # a row no longer changes once there is one below it
    assert {tuple(rows[0]) for rows in running if len(rows) > 1} == {tuple(ROWS[0])}


async def test_axe_finds_nothing_in_a_table(environment: dict[str, str], tab: Tab) -> None:
    page, found = tab.page, {}
    # stalls in the second row until it is stopped
    half = script([TRAIN, FOOT], "stall=36")
    async with working(environment, functions=FUNCTIONS):
        table = await asked(tab, half)
        await tab.explained(expect(table.get_by_role("rowheader")).to_have_text(["Train", "On foot"]))
        await expect(table.get_by_role("row").last).to_contain_text("…")
        for theme in THEMES:
            await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            found[f"streaming, {theme}"] = await violations(tab)
        await tab.press("Stop")
        await tab.until_reply("cancelled")
        await expect(table.get_by_role("row").last).not_to_contain_text("…")
        for theme in THEMES:
            await page.emulate_media(color_scheme=theme)
            await page.set_viewport_size({"width": 390, "height": 780})
            found[f"phone, {theme}"] = await violations(tab)
            await page.set_viewport_size({"width": 1280, "height": 800})
    assert {where: what for where, what in found.items() if what} == {}


async def test_a_wide_table_scrolls_on_a_phone(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment, functions=FUNCTIONS):
        await asked(tab, script([TRAIN, FOOT]))
        await tab.until_reply("done")
    await tab.page.set_viewport_size({"width": 390, "height": 780})
    frame = tab.page.get_by_role("group", name="Options")
    # the table is wider than the phone: its frame scrolls, and the page does not
    assert await tab.page.evaluate("document.documentElement.scrollWidth") == 390
    assert await frame.evaluate("(frame) => frame.scrollWidth > frame.clientWidth")
    await frame.focus()
    await frame.evaluate("(frame) => (frame.scrollLeft = frame.scrollWidth)")
    await expect(frame.get_by_role("cell", name="For long ways.")).to_be_in_viewport(ratio=1)
    await expect(frame.get_by_role("rowheader", name="Train")).to_be_in_viewport(ratio=1)


async def test_hostile_cells_run_no_script(environment: dict[str, str], tab: Tab) -> None:
    foreign = tab.foreign_requests(environment)
    options = [option(text, 1, [text, text], [text], text) for text in HOSTILE]
    async with working(environment, functions=FUNCTIONS):
        table = await asked(tab, script(options, "delay=0.005"))
        await tab.until_reply("done")
        await expect(table.get_by_role("rowheader")).to_have_text(list(HOSTILE))
        await expect(table.get_by_role("row").last.get_by_role("cell").last).to_have_text(HOSTILE[-1])
        assert await tab.page.evaluate(FOUND) == []
    assert foreign == []


async def test_an_empty_list_shows_no_table(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment, functions=FUNCTIONS):
        await tab.start("Compare")
        await tab.say(script([]))
        await tab.until_reply("done")
    assert await tab.reply_text() == "Here it is."
    await expect(tab.page.get_by_test_id("data")).to_have_count(0)
    await expect(tab.page.get_by_role("table")).to_have_count(0)
