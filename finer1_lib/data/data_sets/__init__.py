"""The paper's six data sets: catalogue (facts, names, release paths), archives (readers, copies on the Hub)."""
