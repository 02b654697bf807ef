"""Scenes that try to take service away from clients; bench/scenes.py plays them."""
