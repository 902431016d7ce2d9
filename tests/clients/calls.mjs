// What the tests have the JavaScript client do: reads steps as JSON, writes what became of each.
import * as millrace from '../../clients/javascript/index.js';

const [, , options, steps] = process.argv;
const client = new millrace.Client(JSON.parse(options));
const told = [];
let run;

const does = {
  call: async (...given) => ended(await client.call(...given)),
  parsed: async (script, input) => {
    const result = await client.call(script, input, { parse: (value) => value.n.toFixed(1) });
    return result.unwrap();
  },
  unwrap: async (...given) => (await client.call(...given)).unwrap(),
  submit: async (...given) => {
    run = await client.submit(...given);
    return { id: run.id, script: run.script, frozen: Object.isFrozen(run) };
  },
  wait: async (...given) => ended(await run.wait(...given)),
  result: (...given) => run.result(...given),
  publish: (...given) => client.publish(...given),
  abort: async (script) => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(new Error('enough')), 100);
    return client.call(script, {}, { signal: stop.signal });
  },
};

function ended({ runId, status, ok, value, error, durationMs, ...more }) {
  return { runId, status, ok, value, error, durationMs, more };
}

for (const [name, ...given] of JSON.parse(steps)) {
  try {
    told.push({ value: await does[name](...given) });
  } catch (error) {
    const { name: kind, message } = error;
    told.push({ error: { ...error, name: kind, message, ours: error instanceof millrace.MillraceError } });
  }
}
process.stdout.write(JSON.stringify(told));
