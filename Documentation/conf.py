# SPDX-License-Identifier: GPL-2.0
"""Configuration of Sphinx, for `make docs`."""

project = "pvirq"
author = "The pvirq developers"
copyright = "2026, The pvirq developers"  # Sphinx's name for it.

# Literal blocks are commands, tables and diagrams, in no one language.
highlight_language = "none"

html_theme = "alabaster"
