"""Lists and calls the tools of an MCP server with the official Python client.

    client.py MODE SERVER CALLS

MODE is `auto` (the newest version of the protocol) or `legacy` (with a handshake). SERVER is the URL
of a server, or a list in JSON: the command that starts one. CALLS is a list in JSON of pairs, the
name of a tool and its arguments. Prints what the server returned as JSON. The client checks each
result against the tool's schema.
"""

import asyncio
import json
import sys

from mcp import Client, MCPError, StdioServerParameters


async def main(mode: str, server: str, calls: list) -> dict:
    if server.startswith("["):
        command, *arguments = json.loads(server)
        server = StdioServerParameters(command=command, args=arguments)
    async with Client(server, mode=mode, read_timeout_seconds=120) as client:
        tools = (await client.list_tools()).tools
        results, progress = [], []

        async def report(done: float, total: float | None, message: str | None) -> None:
            progress.append(message)

        for name, arguments in calls:
            result = await client.call_tool(name, arguments, progress_callback=report)
            results.append(result.model_dump(mode="json", by_alias=True))
        try:
            await client.call_tool("no_such_tool", {})
            code = None
        except MCPError as error:
            code = error.error.code
        return {
            "version": client.protocol_version,
            "instructions": client.instructions,
            "tools": [tool.name for tool in tools],
            "results": results,
            "progress": progress,
            "code": code,
        }


print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))))
