"""How fast the page paints text, and opens and scrolls a long session."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from playwright.async_api import expect

from tests.e2e import rows
from tests.e2e.rows import Conversation, Turn
from tests.e2e.tab import Tab
from tests.support.database import Row
from tests.support.workers import working

pytestmark = pytest.mark.quiet

LONGEST_TASK_MS = 100
# the best of several rounds, since other load on the machine slows some of them
ROUNDS = 2

# for every delta: whether its text was in the document in the first frame after its arrival
_PAINTS = """() => {
  window.deltas = [];
  const decoder = new TextDecoder();
  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", ({ data }) => {
        const text = typeof data === "string" ? data : decoder.decode(data);
        const [word] = /tick\\d+/.exec(text) ?? [];
        if (!word || !text.includes("delta")) return; // rows contain the words too
        const arrived = performance.now();
        requestAnimationFrame(() => {
          const painted = document.querySelector('[data-testid="message-assistant"]')?.textContent.includes(word);
          window.deltas.push({ word, painted: painted === true, after: performance.now() - arrived });
        });
      });
    }
  };
}"""

_LONG_TASKS = """() => {
  window.longTasks = [];
  new PerformanceObserver((list) => {
    window.longTasks.push(...list.getEntries().map(({ duration, startTime }) => ({ duration, startTime })));
  }).observe({ type: "longtask" });
}"""

# the time of the first frame that has the last message
_UNTIL_THE_END = """() => new Promise((resolve) => {
  const check = (now) =>
    document.body.textContent.includes("Part 99") ? resolve(now) : requestAnimationFrame(check);
  requestAnimationFrame(check);
})"""

# scrolls through the log, one step per frame; returns the longest time between two frames, in ms
_SCROLL = """async () => {
  const log = document.querySelector('[role="log"]');
  const frame = () => new Promise(requestAnimationFrame);
  let longest = 0;
  let before = await frame();
  for (const direction of [-1, 1]) {
    for (let step = 0; step < 200; step++) {
      log.scrollBy(0, direction * 250);
      const now = await frame();
      longest = Math.max(longest, now - before);
      before = now;
      if (direction < 0 ? log.scrollTop <= 0 : log.scrollTop + log.clientHeight >= log.scrollHeight - 1) break;
    }
  }
  return longest;
}"""

REPLY = """## Part {n}

Here is **what** you asked for, with a [link](https://example.com/{n}) and `code`.

1. One thing
2. Another thing

```python
def part_{n}(value: int) -> int:
    \"\"\"Give the next.\"\"\"
    return value + {n}
```

| name | value |
|---|---|
| a | {n} |
| b | 2 |
"""


async def test_text_is_painted_in_the_next_frame(environment: dict[str, str], tab: Tab) -> None:
    await tab.page.add_init_script(f"({_PAINTS})()")
    await tab.page.reload()
    async with working(environment):
        await tab.start()
        words = " ".join(f"tick{n:03d}" for n in range(40))
        await tab.say(f'[[text="{words}" delay=0.02]]')
        await tab.until_reply("done")
    deltas: list[dict[str, Any]] = await tab.page.evaluate("window.deltas")
    assert len(deltas) > 5
    print(f"painted in the next frame: {sum(d['painted'] for d in deltas)} of {len(deltas)}; first: {deltas[0]}")
    assert "tick000".startswith(deltas[0]["word"])  # the first one is among them
    assert [delta for delta in deltas if not delta["painted"]] == []


async def test_a_long_session_opens_fast_and_scrolls_smoothly(
    environment: dict[str, str], tab: Tab, db: psycopg.AsyncConnection[Row]
) -> None:
    email = await tab.sign_up()
    turns = [Turn(f"Question {n}?", REPLY.format(n=n)) for n in range(100)]
    session_id = await rows.write(db, await rows.user_id(db, email), Conversation("Long", turns))
    opened, longest = [], []
    for _ in range(ROUNDS):
        await tab.page.goto(tab.address)
        await tab.page.reload()
        entry = tab.page.get_by_role("button", name="Long", exact=False).first
        await expect(entry).to_be_visible()
        await tab.page.evaluate(_LONG_TASKS)
        began = await tab.page.evaluate("performance.now()")
        await entry.click()
        opened.append(await tab.page.evaluate(_UNTIL_THE_END) - began)
        await expect(tab.replies).to_have_count(100)
        await expect(tab.replies.last).to_be_in_viewport()
        longest_frame = await tab.page.evaluate(_SCROLL)
        await expect(tab.replies.last).to_be_in_viewport()
        tasks: list[dict[str, float]] = await tab.page.evaluate("window.longTasks")
        durations = sorted((round(task["duration"]) for task in tasks), reverse=True)
        longest.append(max(durations, default=0))
        print(
            f"{session_id}: opened in {opened[-1]:.0f} ms, long tasks {durations}, longest frame {longest_frame:.0f} ms"
        )
    assert min(opened) < 1_000
    assert min(longest) < LONGEST_TASK_MS
