# So that `snakemake` works in a clone.  The workflow is workflow/Snakefile, where the Snakemake Workflow Catalog expects
# it.  The statement `include:` would not pass its default target on.
workflow.include("workflow/Snakefile", overwrite_default_target=True)
