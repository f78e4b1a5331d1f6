"""MCP at `/mcp`: the tools of `/tools` and some resources, for every MCP client.

Streamable HTTP without sessions: each request stands alone, so a restart of the edge loses nothing.
`endpoint` checks the caller and limits; `server` answers with the official SDK, which is imported
at the first request, since it takes a second and 30 MB; `web` asks Django on the caller's behalf.
"""
