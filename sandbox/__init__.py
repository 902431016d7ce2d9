"""Runs one job of untrusted code in a jail, and keeps jails ready.

It knows nothing of workspaces, scripts, queues or databases: a `Job` goes in, an `Outcome` comes out.
The boundary is the kernel's (namespaces, cgroups, a system call policy, an almost empty root); what the
bootstrap inside the jail does is comfort. README.md says what that protects from and what it does not.
"""
