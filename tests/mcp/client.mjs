// Lists and calls the tools of an MCP server with the official TypeScript client.
//
//   client.mjs SERVER CALLS
//
// SERVER and CALLS are those of client.py, and so is what is printed. The client checks each result
// against the tool's schema.

import { createRequire } from 'node:module';

const require = createRequire(new URL('../../target/npm/', import.meta.url));
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
const { StreamableHTTPClientTransport } =
  require('@modelcontextprotocol/sdk/client/streamableHttp.js');

const [server, calls] = process.argv.slice(2);

function connection() {
  if (!server.startsWith('[')) return new StreamableHTTPClientTransport(new URL(server));
  const [command, ...args] = JSON.parse(server);
  return new StdioClientTransport({ command, args });
}

const client = new Client({ name: 'test', version: '1' });
const transport = connection();
await client.connect(transport);
const { tools } = await client.listTools();
const progress = [];
const onprogress = ({ message }) => progress.push(message);
const results = [];
for (const [name, args] of JSON.parse(calls)) {
  results.push(await client.callTool({ name, arguments: args }, undefined, { onprogress }));
}
let code = null;
try {
  await client.callTool({ name: 'no_such_tool', arguments: {} });
} catch (error) {
  code = error.code;
}
const result = {
  version: transport.protocolVersion ?? null,
  instructions: client.getInstructions(),
  tools: tools.map((tool) => tool.name),
  results,
  progress,
  code,
};
await client.close();
process.stdout.write(JSON.stringify(result) + '\n');
