"""The console command `finer1`, above all other rooms: nothing imports it.

Reading order: `cli` (every command, thin), `terminal` (exit codes, tables), `seeds` (several runs pooled),
`rescore` (scores anew from records), `export` (a checkpoint for lmms-eval), `benchmarks` (scripts of the
checkout), `doctor` and `gpu_check` (preflight checks), `report` (a run as one HTML page).
"""
