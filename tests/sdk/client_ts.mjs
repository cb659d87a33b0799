// Run one example with the TypeScript SDK and print what its user would see, as one line of JSON.
//
// The suite copies this file beside the node_modules that holds the SDK, for the documentation's own import to work:
// `node client_ts.mjs EXAMPLES_FILE EXAMPLE`, with TOGETHER_BASE_URL and TOGETHER_API_KEY set.
import { readFileSync } from 'node:fs';

import Together from 'together-ai';
import { VERSION } from 'together-ai/version';

const steps = JSON.parse(readFileSync(process.argv[2], 'utf8'))[process.argv[3]];
const client = new Together();
const seen = { version: VERSION, calls: [], printed: [], sessions: null, error: null };
let sessionId;
try {
  for (const step of steps) {
    if (step.list_sessions) {
      const listed = await client.codeInterpreter.sessions.list();
      seen.sessions = { errors: listed.errors, sessions: listed.data.sessions };
      continue;
    }
    const body = { code: step.code, language: 'python' };
    const wanted = step.same_session ? sessionId : step.session_id;
    if (wanted !== undefined) body.session_id = wanted;
    if (step.files !== undefined) body.files = step.files;
    const response = await client.codeInterpreter.execute(body);
    // The documentation tests `errors` for truth and reads `data` only when it is false.
    if (response.errors) {
      seen.printed.push(`Errors: ${response.errors}`);
      seen.calls.push({ session_id: null, status: null, errors: response.errors, outputs: [] });
      continue;
    }
    sessionId = response.data.session_id;
    seen.calls.push({
      session_id: response.data.session_id,
      status: response.data.status,
      errors: response.errors,
      outputs: response.data.outputs.map(({ type, data }) => ({ type, data })),
    });
    seen.printed.push(`Status: ${response.data.status}`);
    for (const output of response.data.outputs) seen.printed.push(`${output.type}: ${output.data}`);
  }
} catch (failure) {
  if (!(failure instanceof Together.APIError)) throw failure;
  seen.error = { type: failure.constructor.name, status: failure.status, message: failure.message };
}
console.log(JSON.stringify(seen));
