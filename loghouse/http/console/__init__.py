"""The console: one page that shows the cluster, made of the files beside this one."""
