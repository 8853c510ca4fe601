"""Logging: one JSON object per line for machines, or plain lines for people. Never log a key or a prompt."""

import logging
import sys
from datetime import UTC, datetime

from bridge.printable import dumps, escape, escape_lines

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# At INFO these log every request and every frame.
_CHATTY = ("httpx", "httpcore", "hpack", "websockets", "realtime", "aiohttp.access")


def setup(style: str, level: str, worker: str) -> None:
    """Send every log record of at least `level` to stderr, as `json` or `console` lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(worker) if style == "json" else _Console())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        # realtime logs every closed connection as an error; the supervisors log it once
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "realtime" else logging.WARNING)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and value not in (None, "")}


class _Json(logging.Formatter):
    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
            "worker": self._worker,
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return dumps(line)


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        line = escape(f"{clock} {record.levelname.lower():7} {record.getMessage()}  {extra}".rstrip())
        if record.exc_info:
            line += "\n    " + escape_lines(self.formatException(record.exc_info), "    ")
        return line
