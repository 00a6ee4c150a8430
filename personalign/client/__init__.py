"""People's routes of a server, from another process. Read ``calls``, then ``people``."""

from personalign.client.failures import ClientError, NotAllowed, NotFound, Refused, Unavailable
from personalign.client.people import AsyncPeople, People

__all__ = ["AsyncPeople", "ClientError", "NotAllowed", "NotFound", "People", "Refused", "Unavailable"]
