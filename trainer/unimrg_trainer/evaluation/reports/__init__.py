"""Reports on evaluated runs: what is compared with what, how sure that is, and pages (docs/method/evaluation.md).

Free of torch. Nothing here opens a store or talks to a server: runs come through `runs.ResultFiles`.
"""
