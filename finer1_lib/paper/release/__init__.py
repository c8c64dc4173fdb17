"""The files of the official release, read and written: evaluation questions, rationales, triplets."""
