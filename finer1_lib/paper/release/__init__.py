"""The files of the official release: evaluation lists, rationales, triplets and prompts, read and written."""


