// The call that a run makes, as curl and in the vendor's SDKs. The key is never in it: it stays in the environment.

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A Python string of the code: readable where that is possible, exact always. */
function python(code) {
  if (!code.includes("\\") && !code.includes('"""') && !code.endsWith('"') && !/[^\n\t\x20-\uffff]/.test(code)) {
    return code.includes("\n") ? `"""\\\n${code}"""` : `"${code.replaceAll('"', '\\"')}"`;
  }
  return JSON.stringify(code); // its escapes are Python's too
}

function typescript(code) {
  return code.includes("\n") ? `\`${code.replace(/[\\`]|\$\{/g, "\\$&")}\`` : JSON.stringify(code);
}

function curl({ code, session, files }) {
  const body = { language: "python", code, ...(session && { session_id: session }), ...(files.length && { files: named(files) }) };
  return `curl ${location.origin}/tci/execute \\
  -H "Authorization: Bearer $TCI_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(JSON.stringify(body, null, 2))}`;
}

const named = (files) => files.map(({ name }) => ({ name, encoding: "base64", content: "..." }));

function withPython({ code, session, files }) {
  const more = [
    session && `    session_id=${JSON.stringify(session)},`,
    files.length && `    files=${JSON.stringify(named(files))},`,
  ].filter(Boolean).join("\n");
  return `# pip install together==2.42.0
import os
from together import Together

client = Together(api_key=os.environ["TCI_API_KEY"], base_url="${location.origin}/v1")
answer = client.code_interpreter.execute(
    language="python",
    code=${python(code)},${more && `\n${more}`}
)
for output in answer.data.outputs:
    print(output.type, output.data)`;
}

function withTypescript({ code, session, files }) {
  const more = [
    session && `  session_id: ${JSON.stringify(session)},`,
    files.length && `  files: ${JSON.stringify(named(files))},`,
  ].filter(Boolean).join("\n");
  return `// npm install together-ai@0.52.0
import Together from "together-ai";

const client = new Together({ apiKey: process.env.TCI_API_KEY, baseURL: "${location.origin}/v1" });
const answer = await client.codeInterpreter.execute({
  language: "python",
  code: ${typescript(code)},${more && `\n${more}`}
});
console.log(answer.data.outputs);`;
}

export const SNIPPETS = { curl, python: withPython, typescript: withTypescript };
