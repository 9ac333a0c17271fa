"""Who runs the cells of a sweep side by side: processes of this machine, submitit or Ray."""
