"""Rationales: concepts, teachers, parsing, filters, making, quality (in reading order)."""
