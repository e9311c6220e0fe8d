"""Listeners that are traps: they show a persona, take everything, deliver nothing, and write down all that was said."""
