rule study:
    input:
        awaited_score,
        records=arm_files("emm.json"),
    output:
        emm=f"{STUDY}/emm.csv",
        curves=report(
            f"{STUDY}/curves.csv",
            caption="../report/curves_table.rst",
            category="Studies",
            subcategory="{study}",
            labels={"result": "every run", "as": "CSV"},
        ),
        contrasts=f"{STUDY}/contrasts.csv",
        findings=f"{STUDY}/findings.csv",
        onset=f"{STUDY}/onset.csv",
        budget=f"{STUDY}/budget.csv",
        page=report(
            f"{STUDY}/emm.html",
            caption="../report/emm_table.rst",
            category="Studies",
            subcategory="{study}",
            labels={"result": "EMM of each arm", "as": "table"},
        ),
    log:
        "logs/study/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        meaning=json.dumps(emm_experiment.meaning(SETTINGS.base), sort_keys=True),
        prior=prior_json,
        records=lambda wildcards, input: handed_all(input.records),
    message:
        "tables of study {wildcards.study}"
    shell:
        "python -m emmeter.stages.study --study {params.study:q} --meaning {params.meaning:q} --prior {params.prior:q} --records {params.records:q} --emm {output.emm} --curves {output.curves}"
        " --contrasts {output.contrasts} --findings {output.findings} --onset {output.onset} --budget {output.budget} --page {output.page}"
        " > {log} 2>&1"


rule figures:
    input:
        emm=f"{STUDY}/emm.csv",
        curves=f"{STUDY}/curves.csv",
        contrasts=f"{STUDY}/contrasts.csv",
        galleries=arm_files("gallery.npz"),
    output:
        figure("curves", "ratio against N"),
        figure("emm", "EMM of each arm"),
        figure("gallery", "generated images and their nearest training images"),
    log:
        "logs/figures/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        style=SETTINGS.figures.model_dump_json(),
        galleries=lambda wildcards, input: handed_all(input.galleries),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "figures of study {wildcards.study}"
    shell:
        "python -m emmeter.stages.figures --study {params.study:q} --style {params.style:q} --emm {input.emm}"
        " --curves {input.curves} --contrasts {input.contrasts} --galleries {params.galleries:q} --folder {params.folder} > {log} 2>&1"


# Only of studies with enough snapshots.
rule progress_figure:
    input:
        f"{STUDY}/curves.csv",
    output:
        figure("progress", "ratio against training progress"),
    log:
        "logs/progress_figure/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        style=SETTINGS.figures.model_dump_json(),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "ratio against training progress in study {wildcards.study}"
    shell:
        "python -m emmeter.stages.claim_figure --kind progress --study {params.study:q} --style {params.style:q}"
        " --table {input} --folder {params.folder} > {log} 2>&1"


# Only of studies that claim something about the onset.
rule onset_figure:
    input:
        f"{STUDY}/onset.csv",
    output:
        figure("onset", "onset of memorization against N"),
    log:
        "logs/onset_figure/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        style=SETTINGS.figures.model_dump_json(),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "onset of memorization against N in study {wildcards.study}"
    shell:
        "python -m emmeter.stages.claim_figure --kind onset --study {params.study:q} --style {params.style:q}"
        " --table {input} --folder {params.folder} > {log} 2>&1"


# Only of studies that claim something about the training budget.
rule budget_figure:
    input:
        f"{STUDY}/budget.csv",
    output:
        figure("budget", "EMM against the training budget"),
    log:
        "logs/budget_figure/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        style=SETTINGS.figures.model_dump_json(),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "EMM against the training budget in study {wildcards.study}"
    shell:
        "python -m emmeter.stages.claim_figure --kind budget --study {params.study:q} --style {params.style:q}"
        " --table {input} --folder {params.folder} > {log} 2>&1"


rule summary:
    input:
        [f"{EXPERIMENT}/{name}/emm.csv" for name in SETTINGS.selected],
    output:
        table=f"{EXPERIMENT}/emm.csv",
        page=report(
            f"{EXPERIMENT}/emm.html",
            caption="../report/emm_table.rst",
            category="All studies",
            labels={"result": "EMM of every arm", "as": "table"},
        ),
    log:
        "logs/summary.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        studies=lambda wildcards, input: handed_all(input),
    message:
        "table of all studies"
    shell:
        "python -m emmeter.stages.summary --studies {params.studies:q} --table {output.table} --page {output.page} > {log} 2>&1"


rule findings_table:
    input:
        [f"{EXPERIMENT}/{name}/findings.csv" for name in SETTINGS.selected],
    output:
        table=f"{EXPERIMENT}/findings.csv",
        page=report(
            f"{EXPERIMENT}/findings.html",
            caption="../report/findings.rst",
            category="All studies",
            labels={"result": "findings of the paper", "as": "table"},
        ),
    log:
        "logs/findings.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        studies=lambda wildcards, input: handed_all(input),
    message:
        "findings of all studies"
    shell:
        "python -m emmeter.stages.findings_table --studies {params.studies:q} --table {output.table} --page {output.page} > {log} 2>&1"


# A target that always runs, so that `onsuccess` prints the findings even if nothing else is to be done.
rule findings:
    input:
        rules.findings_table.output.table,
    log:
        "logs/findings_target.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    message:
        "findings are in {input}"
    shell:
        "test -f {input} 2> {log}"
