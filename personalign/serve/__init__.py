"""The server: OpenAI's routes under each user's own reward, people's routes, pages for people and operators.

Read ``app.py`` first, then follow a request: ``guard.py`` (limits), ``access.py`` (who is calling), ``subject.py``
(for whom), ``chat.py`` or ``people.py`` (what is done), ``failures.py`` (what went wrong).
"""
