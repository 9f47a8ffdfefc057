"""One command that measures everything about a GPU: `bash scripts/measure_gpu.sh`.

`running` starts each part in a process of its own, with a time budget; `results` carries what a part finds back to it;
`report` writes that down for a person. Each other file is one part.
"""
