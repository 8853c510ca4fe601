"""The page follows a reply to its end, on any processor, and leaves alone a reader who scrolls.

FOLLOWED=100 tries so many replies on each processor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from playwright.async_api import Locator, expect

from devstack.model import ModelServer
from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import Tab
from tests.support.database import Row
from tests.support.workers import working

FOLLOWED = int(os.environ.get("FOLLOWED", "3"))
_IN_A_SESSION = 10
_CODE = "\n".join(f"def part_{n}(value: int) -> int:\n    return value + {n}\n" for n in range(12))
_PROSE = "\n\n".join(f"Paragraph {n}. " + "It says **something** of `value`. " * 12 for n in range(8))
_LIST = "\n".join(f"{n}. Item {n}\n   - [ ] one\n   - two, which is a longer one" for n in range(1, 25))
_TABLE = "| name | what |\n|---|---|\n" + "\n".join(f"| row {n} | {'word ' * (n % 9)}|" for n in range(30))
_KINDS = (
    f"{_PROSE}\n\n```python\n{_CODE}```",
    f"```python\n{_CODE}```\n\n{_PROSE}",
    f"# Title\n\n{_LIST}\n\n## More\n\n{_TABLE}",
    f"{_TABLE}\n\n{_LIST}",
)

# how far above its end the log is, once that has not changed for some frames
_DISTANCE = """() => new Promise((resolve, reject) => {
  const log = document.querySelector('[role="log"]');
  const seen = [];
  let last = NaN, same = 0;
  setTimeout(() => reject(new Error(`never at rest: ${seen.slice(-20)}`)), 15000);
  const check = () => {
    const now = log.scrollHeight - log.scrollTop - log.clientHeight;
    same = now === last ? same + 1 : 0;
    seen.push(last = now);
    if (same === 12) resolve(now); else requestAnimationFrame(check);
  };
  requestAnimationFrame(check);
})"""
# rounding
_AT_THE_END = 2


def asking(text: str, directives: str = "") -> str:
    return f"Go on. [[text={json.dumps(text)} {directives}]]"


async def distance(tab: Tab) -> float:
    return float(await tab.page.evaluate(_DISTANCE))


async def slow_down(tab: Tab, rate: int) -> None:
    devtools = await tab.page.context.new_cdp_session(tab.page)
    await devtools.send("Emulation.setCPUThrottlingRate", {"rate": rate})


@pytest.mark.parametrize("rate", [1, 4, 6])
async def test_the_page_follows_replies_to_their_end(environment: dict[str, str], tab: Tab, rate: int) -> None:
    missed = []
    async with working(environment):
        await tab.sign_up()
        for number in range(FOLLOWED):
            if number % _IN_A_SESSION == 0:
                await slow_down(tab, 1)
                await tab.new_session()
                await slow_down(tab, rate)
            delay = (0.001, 0.004, 0.01)[number % 3]
            await tab.say(asking(_KINDS[number % len(_KINDS)], f"delay={delay}"))
            await expect(tab.replies).to_have_count(number % _IN_A_SESSION + 1, timeout=60_000)
            await tab.until_reply("done", within=60)
            above = await distance(tab)
            if above > _AT_THE_END:
                missed.append(round(above))
    print(f"{rate} x slower: {FOLLOWED - len(missed)} of {FOLLOWED} at the end; others above it by {missed} px")
    assert missed == []


_FRAMES = "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve())))"
# a reader's ways to scroll up
_SCROLL = "(by) => document.querySelector('[role=log]').scrollBy(0, by)"


async def wheel(tab: Tab) -> None:
    await tab.page.mouse.move(700, 300)
    await tab.page.mouse.wheel(0, -300)


async def slow_wheel(tab: Tab) -> None:
    await tab.page.mouse.move(700, 300)
    await tab.page.mouse.wheel(0, -30)


async def drag(tab: Tab, by: int) -> None:
    """Drag a finger over the screen."""
    devtools = await tab.page.context.new_cdp_session(tab.page)
    begin = 300 if by > 0 else 600
    at = [{"x": 700, "y": begin}]
    await devtools.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at})
    for step in range(1, 11):
        at = [{"x": 700, "y": begin + by * step // 10}]
        await devtools.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": at})
    await devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


async def touch(tab: Tab) -> None:
    await drag(tab, 250)


def key(name: str) -> Callable[[Tab], Awaitable[None]]:
    async def press(tab: Tab) -> None:
        await tab.page.get_by_role("log").press(name)

    return press


async def script(tab: Tab) -> None:
    """As the browser does for a search in the page, and for a screen reader."""
    await tab.page.evaluate(_SCROLL, -200)


async def focus(tab: Tab) -> None:
    await tab.page.get_by_role("link", name="first").focus()


WAYS = {
    "wheel": wheel,
    "slow wheel": slow_wheel,
    "touch": touch,
    "arrow": key("ArrowUp"),
    "page": key("PageUp"),
    "home": key("Home"),
    "script": script,
    "focus": focus,
}
LONG = Conversation("Long", [Turn("What?", f"[first](https://example.com)\n\n{_PROSE}\n\n{_LIST}\n\n{_PROSE}")])
WORDS = "\n\n".join(f"part{n:02d} of the reply, which is a line or two" for n in range(120))
# where the text is that a reader looks at, and what it is
_IN_SIGHT = """() => {
  const log = document.querySelector('[role="log"]').getBoundingClientRect();
  const blocks = [...document.querySelectorAll(".bubble :is(p, li)")];
  const block = blocks.find((element) => element.getBoundingClientRect().top > log.top + 40);
  return [block.textContent, Math.round(block.getBoundingClientRect().top)];
}"""


async def in_sight(tab: Tab) -> list[Any]:
    await distance(tab)
    return list(await tab.page.evaluate(_IN_SIGHT))


def newest(tab: Tab) -> Locator:
    return tab.page.get_by_role("button", name="Jump to the newest")


@pytest.mark.parametrize("rate", [1, 6])
async def test_a_reader_who_scrolls_up_is_left_alone(
    environment: dict[str, str], model: ModelServer, tab: Tab, db: psycopg.AsyncConnection[Row], rate: int
) -> None:
    await rows.show(tab, db, LONG)
    await expect(tab.replies).to_have_count(1)
    assert await distance(tab) <= _AT_THE_END
    async with working(environment):
        await tab.say(asking(WORDS, "hold=50"))
        line = 3
        await tab.until_text(f"part{line:02d}")
        await slow_down(tab, rate)
        for name, way in WAYS.items():
            await way(tab)
            seen = await in_sight(tab)
            assert await distance(tab) > _AT_THE_END
            for _ in range(2):
                line += 4
                model.let_go()
                await tab.until_text(f"part{line:02d}")
                assert await in_sight(tab) == seen, name
            await newest(tab).press("Enter")
            await expect(newest(tab)).to_have_count(0)
            await expect(tab.page.get_by_role("log")).to_be_focused()
            line += 4
            model.let_go()
            await tab.until_text(f"part{line:02d}")
            assert await distance(tab) <= _AT_THE_END


async def wheel_to_the_end(tab: Tab) -> None:
    await tab.page.mouse.move(700, 300)
    await tab.page.mouse.wheel(0, 20_000)


async def drag_to_the_end(tab: Tab) -> None:
    for _ in range(3):
        await drag(tab, -450)


async def button(tab: Tab) -> None:
    await newest(tab).click()


RETURNS: dict[str, Callable[[Tab], Awaitable[None]]] = {
    "wheel": wheel_to_the_end,
    "touch": drag_to_the_end,
    "end": key("End"),
    "button": button,
}


@pytest.mark.parametrize("way", RETURNS)
async def test_a_reader_who_returns_is_followed_again(
    environment: dict[str, str], model: ModelServer, tab: Tab, db: psycopg.AsyncConnection[Row], way: str
) -> None:
    await rows.show(tab, db, LONG)
    await expect(tab.replies).to_have_count(1)
    async with working(environment):
        await tab.say(asking(WORDS, "hold=50"))
        await tab.until_text("part03")
        await distance(tab)
        await wheel(tab)
        await expect(newest(tab)).to_be_visible()
        await RETURNS[way](tab)
        await expect(newest(tab)).to_have_count(0)
        for last in ("part08", "part12", "part16"):
            model.let_go()
            await tab.until_text(last)
            assert await distance(tab) <= _AT_THE_END


async def test_sending_a_message_follows_again(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    await rows.show(tab, db, LONG)
    await expect(tab.replies).to_have_count(1)
    await distance(tab)
    await key("Home")(tab)
    await expect(newest(tab)).to_be_visible()
    await tab.box.focus()
    async with working(environment):
        await tab.say(asking(WORDS))
        await tab.until_reply("done")
        assert await distance(tab) <= _AT_THE_END
        await expect(newest(tab)).to_have_count(0)


@pytest.mark.parametrize("away", [False, True], ids=["at the end", "away"])
async def test_changes_of_the_layout_move_nobody(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row], away: bool
) -> None:
    """A long draft, an on-screen keyboard, a narrower window, a message that gets shorter, late highlighting."""
    await rows.show(tab, db, LONG)
    await expect(tab.replies).to_have_count(1)
    await distance(tab)
    if away:
        await script(tab)
        await expect(newest(tab)).to_be_visible()
    seen, _ = await in_sight(tab)

    async def stays() -> None:
        if away:
            assert (await in_sight(tab))[0] == seen
        else:
            assert await distance(tab) <= _AT_THE_END

    for line in range(8):
        await tab.box.press_sequentially(f"line {line}")
        await tab.box.press("Shift+Enter")
        await stays()
    await tab.box.press_sequentially("more")
    await stays()
    await tab.box.fill("")
    await stays()
    for width, height in ((1280, 400), (1280, 800), (600, 800), (1280, 800)):
        await tab.page.set_viewport_size({"width": width, "height": height})
        await stays()
    for padding in ("900px", "0px", "40px", "0px"):
        await tab.page.evaluate("(p) => { document.querySelector('.message').style.paddingTop = p; }", padding)
        await stays()


async def test_a_reply_that_starts_over_is_followed(environment: dict[str, str], tab: Tab) -> None:
    async with working(environment):
        await tab.start()
        await tab.say(asking(_PROSE, "delay=0.001"))
        await tab.until_reply("done")
        await tab.press("Regenerate")
        await expect(tab.replies.last).not_to_have_attribute("data-status", "done")
        await tab.until_reply("done")
        assert await distance(tab) <= _AT_THE_END


async def test_older_messages_load_above_what_is_read(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    turns = [Turn(f"Question {n}?", f"Answer {n}.\n\nIt has two paragraphs.") for n in range(150)]
    await rows.show(tab, db, Conversation("Long", turns))
    older = tab.page.get_by_role("button", name="Load older messages")
    await expect(older).to_be_attached()
    await distance(tab)
    await key("Home")(tab)
    await expect(older).to_be_in_viewport()
    seen = await in_sight(tab)
    count = await tab.replies.count()
    await older.click()
    await expect(tab.replies).not_to_have_count(count)
    text, top = await in_sight(tab)
    assert text == seen[0]
    assert abs(top - seen[1]) <= 60  # the button above it may have gone
    await expect(tab.replies.first).not_to_be_in_viewport()
