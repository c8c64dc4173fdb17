"""Reasoning traces: parsed, judged against the guide, compared, drawn."""


