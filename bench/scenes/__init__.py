"""Scenes that try to take service away from clients; bench/scenes.py plays them.

Each of these modules adds its scenes to `stage.SCENES`.
"""

from . import slow, failures, hostile, deletions, unread, links  # noqa: F401
