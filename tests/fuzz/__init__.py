"""Every parser of foreign input under mutated bytes: `targets` says what is fed and which errors are documented; a crash is any other.

The suite replays the kept corpus and some mutations of it; `python -m tests.fuzz --minutes N` fuzzes on, guided by coverage where atheris is installed.
"""
