"""A video teacher in another process, reached through a socket: see docs/teacher_protocol.md.

`client.connect` gives the trainer a `VideoTeacher`; `server.serve` answers for any network. This
file imports neither, because the server's process needs numpy alone, without jax.
"""
