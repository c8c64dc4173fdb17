"""What can go wrong is looked for before hours are spent: `finer1 doctor PRESET`.

    finer1 doctor single_gpu_24gb --set 01_data.data_root=~/data --quick

Every check is one function from a `Subject` (a preset with its values, and what of its data and its run lies
on the disk) to rows: pass, warn, fail, or skip with the reason, each with what was found, where, and how to
mend it. `finer1_lib.commands.doctor.examination` runs them all; one that breaks is a row too and stops no other.
"""


