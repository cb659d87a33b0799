"""Places in lists of sessions, as text that only we need to read."""

import base64
import datetime as dt

from tci.errors import InvalidRequest
from tci.ids import is_session_id
from tci.storage.usage_store import Position


def cursor_of(place: Position | None) -> str | None:
    """Return a place as text; None: there is none."""
    if place is None:
        return None
    return base64.urlsafe_b64encode(f"{place.started_at.isoformat()} {place.session_id}".encode()).decode()


def place_of(cursor: str) -> Position:
    """Return the place that a cursor names; raises InvalidRequest."""
    try:
        text = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
        moment, session_id = text.split(" ")
        started_at = dt.datetime.fromisoformat(moment)
    except ValueError:
        started_at, session_id = None, ""
    if started_at is None or started_at.utcoffset() != dt.timedelta(0) or not is_session_id(session_id):
        raise InvalidRequest("cursor: must be the next_cursor of an answer", param="cursor")
    return Position(started_at, session_id)
