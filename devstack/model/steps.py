"""Which step of a script a call plays: `[[text=one]] [[then text=two]]` is for two calls about one question.

An agent calls the model several times, and each call repeats what came before. So a call's step is found in its prompt:
it is the number of answers (assistant messages) behind the message with the script. A repeated call has the same
prompt, and plays the same step; nothing is counted, and other conversations do no harm.

A prompt may also say what came before in words of its own, without assistant messages. Then the calls about this
question are remembered by what they contain, in runs: the first call of a run, seen again, begins another one, as when
the question is asked anew. Any other call that was seen before plays its step again. A new one belongs to the run that
has most of its text, or else to the latest. There it plays the step after those that it can follow: calls whose text it
contains, or calls of another function. If it follows none, it plays the step after all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .prompt import Prompt
from .script import Script, Steps, read_steps

# What is remembered of questions whose prompts have no answers in them, and of the calls about each.
MOST_QUESTIONS = 500
MOST_CALLS = 200


@dataclass(frozen=True, slots=True)
class Step:
    """What a call plays. `times` of the script is counted under `key`. `problem` is a sentence about a mistake."""

    script: Script
    key: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    system: str
    words: Sequence[str]
    number: int


class Player:
    """Finds the step of each call."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, list[list[_Call]]] = OrderedDict()

    def step(self, prompt: Prompt) -> Step:
        """Return what this call plays: without a script, an empty one."""
        for at in range(len(prompt.conversation) - 1, -1, -1):
            role, text = prompt.conversation[at]
            if role != "user" or "[[" not in text:
                continue
            steps = read_steps(text)
            is_last = at == prompt.last_at
            if steps.problem is not None:
                return Step(Script(), problem=steps.problem if is_last else None)
            if steps.has_several:
                return self._several(prompt, steps, prompt.conversation[at + 1 :])
            if steps.scripts:
                return Step(steps.scripts[0], steps.scripts[0].source) if is_last else Step(Script())
        return Step(Script())

    def _several(self, prompt: Prompt, steps: Steps, after: Sequence[tuple[str, str]]) -> Step:
        number = sum(role == "assistant" for role, _ in after) or self._remember(prompt, steps)
        if number >= len(steps.scripts):
            return Step(Script())
        script = steps.scripts[number]
        sources = " | ".join(one.source for one in steps.scripts)
        return Step(script, f"{number} of {sources}")

    def _remember(self, prompt: Prompt, steps: Steps) -> int:
        runs = self._runs.setdefault(steps.line, [])  # the latest last
        self._runs.move_to_end(steps.line)
        if len(self._runs) > MOST_QUESTIONS:
            self._runs.popitem(last=False)
        words = [word for role, text in prompt.conversation for word in (role, *text.split())]
        new = _Call(prompt.system, words, 0)
        for run in reversed(runs):
            for call in run:
                if replace(call, number=0) == new:
                    runs.remove(run)
                    runs.extend([run] if call.number or len(run) == 1 else [run, [call]])
                    return call.number

        def depth(run: Sequence[_Call]) -> int:
            return max(
                (call.number for call in run if call.system == new.system and _contains(words, call)), default=-1
            )

        if not runs:
            runs.append([])
        latest = max(reversed(runs), key=depth)
        before = [call for call in latest if call.system != new.system or _contains(words, call)]
        number = 1 + max((call.number for call in before or latest), default=-1)
        latest.append(replace(new, number=number))
        while sum(map(len, runs)) > MOST_CALLS:
            runs.pop(0) if runs[0] is not latest else latest.pop(0)
        return number


def _contains(words: Sequence[str], call: _Call) -> bool:
    """Whether `words` has all of a call's, in their order."""
    rest = iter(words)
    return all(word in rest for word in call.words)
