"""The console command `finer1`, above all other rooms: nothing imports it.

    cli         every command, thin: options, a call of the library, printing
    terminal    exit codes and one-line errors, tables
    report      the end of a run: summary.json, and the run as one HTML page
    seeds       several runs pooled
    rescore     every score again from the records
    findings    what a preflight check returns
    doctor      checks of data, texts and machine before a run
    export      a merged checkpoint for lmms-eval
"""
